import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { FleetConfigInput } from '../../src/fleet/config.ts'
import { TestFleet } from '../support/fleet.ts'

/** Two shards of three servers each, in three regions: what every workload runs on. */
export const tenant = 'globex-eu'
export const regions = ['eu-west', 'eu-central', 'us-east'] as const
export const domains = ['left', 'right'] as const
export type Domain = (typeof domains)[number]
export const shardOf: Readonly<Record<Domain, string>> = { left: 'eu-west/left', right: 'us-east/right' }

export function openStand(): Promise<TestFleet> {
  return TestFleet.open({ adapt, wan: true })
}

function adapt({ dataDir }: FleetConfigInput): FleetConfigInput {
  const root = join(dataDir ?? '', '..')
  const schema = (domain: Domain) => fileURLToPath(new URL(`./schema/${domain}`, import.meta.url))
  const tables = (domain: Domain) => [`${domain}_lists`, `${domain}_accounts`]
  const law = { authority: ['eu-west', 'eu-central'], replicas: ['EU'], otherwise: 'reject' } as const
  return {
    fleet: 'torture',
    ...(dataDir === undefined ? {} : { dataDir }),
    regions: {
      'eu-west': { jurisdiction: 'EU', archive: join(root, 'archive', 'eu-west') },
      'eu-central': { jurisdiction: 'EU' },
      'us-east': { jurisdiction: 'US', archive: join(root, 'archive', 'us-east') },
    },
    // Small, so that much happens; not nothing, so that what is delayed overlaps.
    links: { 'eu-west~eu-central': 4, 'eu-west~us-east': 10, 'eu-central~us-east': 12 },
    shards: {
      [shardOf.left]: { durability: 'quorum', followers: ['eu-west', 'eu-central'] },
      [shardOf.right]: { durability: 'quorum', followers: ['us-east', 'us-east'] },
    },
    domains: {
      left: { class: 'regulated', placement: 'tenant-home', schema: schema('left'), tables: tables('left') },
      right: {
        class: 'regulated',
        placement: shardOf.right,
        schema: schema('right'),
        tables: tables('right'),
        policy: { authority: ['us-east'], replicas: ['US'], otherwise: 'reject' },
      },
    },
    tenants: { [tenant]: { home: shardOf.left, policy: law } },
  }
}
