import { fileURLToPath } from 'node:url'
import type { FleetConfigInput } from '../../src/fleet/config.ts'
import { TestFleet } from '../support/fleet.ts'

/**
 * A fleet in which everyone has a region of their own, so that each can be cut off alone: the gateway, both primaries,
 * and of each shard the one follower that every acknowledgement includes. A second follower beside each primary is whom
 * a failover promotes.
 */
export const tenant = 'globex-eu'
export const home = { shard: 'eu-west/left', domain: 'left', region: 'eu-west', followerRegion: 'eu-central' } as const
export const participant = {
  shard: 'us-east/right',
  domain: 'right',
  region: 'us-east',
  followerRegion: 'us-west',
} as const
export const gatewayRegion = 'eu-north'
/** From where the harness asks and settles: cut off only when the follower there is. */
export const observerRegion = 'eu-central'
export const regions = [gatewayRegion, 'eu-west', 'eu-central', 'us-east', 'us-west'] as const
export type Region = (typeof regions)[number]

export function openStand(): Promise<TestFleet> {
  return TestFleet.open({ adapt })
}

function adapt({ dataDir }: FleetConfigInput): FleetConfigInput {
  const schema = (domain: string) => fileURLToPath(new URL(`./schema/${domain}`, import.meta.url))
  const eu = { jurisdiction: 'EU' }
  const us = { jurisdiction: 'US' }
  return {
    fleet: 'crash',
    ...(dataDir === undefined ? {} : { dataDir }),
    regions: { 'eu-north': eu, 'eu-west': eu, 'eu-central': eu, 'us-east': us, 'us-west': us },
    shards: {
      [home.shard]: { durability: 'quorum', followers: ['eu-west', 'eu-central'], survive: 'region' },
      [participant.shard]: { durability: 'quorum', followers: ['us-east', 'us-west'], survive: 'region' },
    },
    domains: {
      left: { class: 'regulated', placement: 'tenant-home', schema: schema('left'), tables: ['left_marks'] },
      right: {
        class: 'regulated',
        placement: participant.shard,
        schema: schema('right'),
        tables: ['right_marks'],
        policy: { authority: ['us-east', 'us-west'], replicas: ['US'], otherwise: 'reject' },
      },
    },
    tenants: {
      [tenant]: {
        home: home.shard,
        policy: { authority: ['eu-west', 'eu-central'], replicas: ['EU'], otherwise: 'reject' },
      },
    },
  }
}
