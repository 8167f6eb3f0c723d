import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { FleetConfigInput } from '../../src/fleet/config.ts'
import type { Gateway } from '../../src/fleet/gateway.ts'
import { TestFleet } from '../support/fleet.ts'
import { GatewayProcess } from '../support/gateway-process.ts'
import { ShiftedClock } from '../support/shifted-clock.ts'
import type { Client } from './client.ts'
import { gatewayClient, httpClient } from './client.ts'

/** Two shards of three servers each, in three regions: what every workload runs on. */
export const tenant = 'globex-eu'
export const regions = ['eu-west', 'eu-central', 'us-east'] as const
export const domains = ['left', 'right'] as const
export type Domain = (typeof domains)[number]
export const shardOf: Readonly<Record<Domain, string>> = { left: 'eu-west/left', right: 'us-east/right' }
/** The tenants and their homes: what `left` is placed by. */
export const homes: ReadonlyMap<string, string> = new Map([
  [tenant, shardOf.left],
  ['acme-de', shardOf.left],
  ['initech-us', shardOf.right],
])
/** What a gateway of that region has followers of beside it. */
export const domainNear = (region: string): Domain => (region === 'us-east' ? 'right' : 'left')
const processRegions = ['eu-west', 'us-east'] as const

/** A gateway of its own process, which can be killed, frozen and begun again. */
export class Outpost {
  readonly region: string
  readonly #start: () => Promise<GatewayProcess>
  #process: GatewayProcess

  constructor(region: string, start: () => Promise<GatewayProcess>, process: GatewayProcess) {
    this.region = region
    this.#start = start
    this.#process = process
  }

  get process(): GatewayProcess {
    return this.#process
  }

  async begin(): Promise<void> {
    this.#process = await this.#start()
  }
}

export interface StandOptions {
  readonly outposts?: boolean
  readonly archives?: boolean
}

/** A fleet with gateways in this process and of processes of their own. */
export class Stand {
  readonly fleet: TestFleet
  /** In each region, in this process, by clocks that can be set. */
  readonly gateways: readonly Gateway[]
  readonly clocks: readonly ShiftedClock[]
  readonly outposts: readonly Outpost[]

  private constructor(parts: Pick<Stand, 'fleet' | 'gateways' | 'clocks' | 'outposts'>) {
    this.fleet = parts.fleet
    this.gateways = parts.gateways
    this.clocks = parts.clocks
    this.outposts = parts.outposts
  }

  static async open({ outposts: withOutposts = true, archives = true }: StandOptions = {}): Promise<Stand> {
    const fleet = await TestFleet.open({ adapt: (config) => adapt(config, archives), wan: true })
    try {
      const clocks = regions.map(() => new ShiftedClock())
      const gateways = await Promise.all(
        regions.map((region, at) => {
          const clock = clocks[at]
          return fleet.gateway(region, clock === undefined ? {} : { clock })
        }),
      )
      const outposts = await Promise.all(
        (withOutposts ? processRegions : []).map(async (region) => {
          const start = () => GatewayProcess.start({ dataDir: fleet.config.dataDir, region, quiet: true })
          return new Outpost(region, start, await start())
        }),
      )
      return new Stand({ fleet, gateways, clocks, outposts })
    } catch (error) {
      await fleet.close()
      throw error
    }
  }

  /** Of this process, for what a test does beside its clients. */
  get gateway(): Gateway {
    const [gateway] = this.gateways
    if (gateway === undefined) throw new Error('a stand has gateways')
    return gateway
  }

  clients(): Client[] {
    const outposts = this.outposts.map((one, at) =>
      httpClient(`process ${at}`, domainNear(one.region), () => one.process.url),
    )
    const within = this.gateways.map((gateway, at) => {
      const near = domainNear(gateway.parts.region)
      return gatewayClient(gateway, { near, clock: this.clocks[at] ?? new ShiftedClock() })
    })
    // In turn, each time by way of another process: over HTTP a call costs twice.
    return outposts.length === 0 ? within : outposts.flatMap((outpost) => [...within, outpost])
  }

  async close(): Promise<void> {
    await Promise.all(this.outposts.map(({ process }) => process.stop()))
    await this.fleet.close()
  }
}

const here = (path: string) => fileURLToPath(new URL(path, import.meta.url))
const payledger = (path: string) => here(`../../examples/payledger/${path}`)

function adapt({ dataDir }: FleetConfigInput, archives: boolean): FleetConfigInput {
  const root = join(dataDir ?? '', '..')
  const archiveIn = (region: string) => (archives ? { archive: join(root, 'archive', region) } : {})
  const tables = (domain: Domain, ...more: string[]) => [
    ...['lists', 'accounts', 'sets', 'registers'].map((name) => `${domain}_${name}`),
    ...more,
  ]
  const european = { authority: ['eu-west', 'eu-central'], replicas: ['EU'], otherwise: 'reject' } as const
  const american = { authority: ['us-east'], replicas: ['US'], otherwise: 'reject' } as const
  return {
    fleet: 'torture',
    ...(dataDir === undefined ? {} : { dataDir }),
    app: payledger('app.js'),
    invariants: payledger('invariants'),
    regions: {
      'eu-west': { jurisdiction: 'EU', ...archiveIn('eu-west') },
      'eu-central': { jurisdiction: 'EU' },
      'us-east': { jurisdiction: 'US', ...archiveIn('us-east') },
    },
    // Small, so that much happens; not nothing, so that what is delayed overlaps.
    links: { 'eu-west~eu-central': 4, 'eu-west~us-east': 10, 'eu-central~us-east': 12 },
    shards: {
      [shardOf.left]: { durability: 'quorum', followers: ['eu-west', 'eu-central'] },
      [shardOf.right]: { durability: 'quorum', followers: ['us-east', 'us-east'] },
    },
    domains: {
      left: {
        class: 'regulated',
        placement: 'tenant-home',
        schema: here('schema/left'),
        tables: tables('left', 'left_canaries'),
      },
      right: {
        class: 'regulated',
        placement: shardOf.right,
        schema: here('schema/right'),
        tables: tables('right'),
        policy: american,
      },
      payroll: {
        class: 'regulated',
        placement: 'tenant-home',
        schema: payledger('schema/payroll'),
        tables: ['employees', 'payroll_runs', 'payroll_items', 'journal_entries'],
      },
      treasury: {
        class: 'regulated',
        placement: shardOf.right,
        schema: payledger('schema/treasury'),
        tables: ['treasury_accounts', 'treasury_holds'],
        policy: american,
      },
      // What lets the invariants compare runs with holds in one region.
      finance: {
        class: 'derived',
        at: shardOf.right,
        schema: payledger('schema/finance'),
        tables: ['finance_timeline'],
        from: { payroll: { payroll_runs: ['id', 'status', 'total_cents'] } },
      },
    },
    tenants: Object.fromEntries(
      [...homes].map(([name, home]) => [name, { home, policy: home === shardOf.right ? american : european }]),
    ),
  }
}
