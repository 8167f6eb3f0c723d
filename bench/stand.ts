import { chmod, mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { Fleet, FleetConfigInput } from 'holdfast'
import { openFleet } from 'holdfast'
import pg from 'pg'
import { unlessInterrupted } from './interrupt.ts'

/** What a bench runs on: a fleet of two shards, 80 ms apart, and the same servers without Holdfast. */

export const tenant = 'globex-eu'
export const home = 'eu-west/ledger'
export const abroad = 'us-east/cash'
export const region = 'eu-west'
export const roundTripMs = 80

export interface Stand {
  readonly fleet: Fleet
  readonly config: FleetConfigInput
  readonly dataDir: string
  /**
   * A connection to a node, or to the primary of a shard, as its administrator, from the region of the fleet's gateway: over
   * the same link, by the same driver.
   */
  readonly connect: (shardOrNode: string) => Promise<pg.Client>
  /** What such a connection is made of. */
  readonly targetOf: (shardOrNode: string) => Promise<pg.ClientConfig>
}

/** A fresh folder that the servers' user can enter; gone afterwards. */
export async function withFolder<T>(use: (root: string) => Promise<T>): Promise<T> {
  const root = await mkdtemp(join(tmpdir(), 'hfb-'))
  try {
    await chmod(root, 0o755)
    return await use(root)
  } finally {
    await rm(root, { recursive: true, force: true, maxRetries: 5 })
  }
}

/** `adapt` changes the configuration before the start. */
export function withStand<T>(
  use: (stand: Stand) => Promise<T>,
  adapt: (config: FleetConfigInput) => FleetConfigInput = (config) => config,
): Promise<T> {
  return withFolder(async (root) => {
    const config = adapt(configOf(root))
    const fleet = await openFleet({ config, region, wan: true })
    const clients: pg.Client[] = []
    const dataDir = join(root, 'data')
    const connect = async (shardOrNode: string) => {
      const client = new pg.Client(await targetOf(dataDir, shardOrNode))
      clients.push(client)
      await client.connect()
      return client
    }
    try {
      return await unlessInterrupted(
        use({ fleet, config, dataDir, connect, targetOf: (place) => targetOf(dataDir, place) }),
      )
    } finally {
      // Whatever a connection ends with, its server does not stay behind.
      await Promise.allSettled(clients.map((client) => client.end()))
      await fleet.close()
    }
  })
}

/** The home's acknowledgements include a follower in another region, this far away. */
export const survivorMs = 12

export function survivingRegion(config: FleetConfigInput): FleetConfigInput {
  return {
    ...config,
    regions: { ...config.regions, 'eu-central': { jurisdiction: 'EU' } },
    links: { ...config.links, 'eu-west~eu-central': survivorMs, 'eu-central~us-east': roundTripMs },
    shards: {
      ...config.shards,
      [home]: { durability: 'quorum', followers: ['eu-west', 'eu-central'], survive: 'region' },
    },
  }
}

function configOf(root: string): FleetConfigInput {
  const schema = (name: string) => fileURLToPath(new URL(`./schema/${name}`, import.meta.url))
  const policy = (jurisdiction: string, authority: string) =>
    ({ authority: [authority], replicas: [jurisdiction], otherwise: 'reject' }) as const
  return {
    fleet: 'bench',
    dataDir: join(root, 'data'),
    regions: {
      'eu-west': { jurisdiction: 'EU', archive: join(root, 'archive', 'eu-west') },
      'us-east': { jurisdiction: 'US', archive: join(root, 'archive', 'us-east') },
    },
    links: { 'eu-west~us-east': roundTripMs },
    shards: {
      [home]: { durability: 'quorum', followers: ['eu-west', 'eu-west'] },
      [abroad]: { durability: 'quorum', followers: ['us-east', 'us-east'] },
    },
    domains: {
      ledger: {
        class: 'regulated',
        placement: 'tenant-home',
        schema: schema('ledger'),
        tables: ['entries', 'balances'],
      },
      cash: {
        class: 'regulated',
        placement: abroad,
        schema: schema('cash'),
        tables: ['holds'],
        policy: policy('US', 'us-east'),
      },
    },
    tenants: { [tenant]: { home, policy: policy('EU', region) } },
  }
}

interface TopologyFile {
  readonly shards: Readonly<
    Record<
      string,
      {
        readonly primary: string
        readonly nodes: readonly {
          readonly id: string
          readonly host: string
          readonly port: number
          readonly links: Readonly<Record<string, string>>
        }[]
      }
    >
  >
}

interface KeysFile {
  readonly passwords: { readonly holdfast_admin: string }
}

async function targetOf(dataDir: string, shardOrNode: string) {
  const read = async <T>(...path: string[]) => JSON.parse(await readFile(join(dataDir, ...path), 'utf8')) as T
  const [topology, keys] = [await read<TopologyFile>('topology.json'), await read<KeysFile>('keys', 'fleet.json')]
  const wanted = topology.shards[shardOrNode]?.primary ?? shardOrNode
  const node = Object.values(topology.shards)
    .flatMap(({ nodes }) => nodes)
    .find(({ id }) => id === wanted)
  if (node === undefined) throw new Error(`no shard and no node ${shardOrNode}`)
  return {
    host: node.links[region] ?? node.host,
    port: node.port,
    user: 'holdfast_admin',
    password: keys.passwords.holdfast_admin,
    database: 'holdfast',
    application_name: 'bench',
    ssl: false,
    pipeline: true,
  }
}
