import { present } from '../../src/base/assert.ts'
import type { Clock } from '../../src/base/clock.ts'
import { systemClock } from '../../src/base/clock.ts'
import type { Metrics } from '../../src/base/metrics.ts'
import { silentMetrics } from '../../src/base/metrics.ts'
import { newRandomUuid } from '../../src/base/random.ts'
import type { OnStep } from '../../src/base/step.ts'
import { noStep } from '../../src/base/step.ts'
import type { DirectorySource, DomainEntry, TenantEntry } from '../../src/directory/directory.ts'
import { Directory, initialPlacements } from '../../src/directory/directory.ts'
import { DirectoryStore } from '../../src/directory/directory-store.ts'
import type {
  DomainName,
  Durability,
  Epoch,
  FleetNode,
  HistoryId,
  Jurisdiction,
  NodeId,
  RegionName,
  ShardName,
  ShardTopology,
  TenantName,
  Topology,
  TopologySource,
} from '../../src/directory/topology.ts'
import { writePlacements } from '../../src/fleet/founding.ts'
import type { ConnectionTarget } from '../../src/postgres/statement.ts'
import { Connection } from '../../src/postgres/connection.ts'
import { ConnectionPools, poolLimitsDefault } from '../../src/postgres/pools.ts'
import type { OnBackgroundFailure } from '../../src/transaction/background.ts'
import type { TransactionEnvironment, TransactionLimits } from '../../src/transaction/environment.ts'
import { transactionEnvironment, transactionLimitsDefault } from '../../src/transaction/environment.ts'
import { onBackgroundFailure } from './background-failure.ts'
import type { FreshDatabase } from './database.ts'
import { freshDatabase } from './database.ts'
import { eventually } from './eventually.ts'

/**
 * Shards of a test that are databases of the one shared server: enough for whatever needs no failover and no
 * followers. A branch belongs to a database, a clock is a sequence of one; only the server's processes are shared.
 */
export const home = 'eu-west/payroll' as ShardName
export const treasury = 'us-east/treasury' as ShardName
/** Of local durability: it takes no part in global transactions. */
export const scratch = 'eu-west/scratch' as ShardName

export const tenant = 'globex-eu'
export const otherTenant = 'initech-us'
/** At home on the shard of local durability. */
export const localTenant = 'scratch-eu'

const policy = {
  authority: ['eu-west' as RegionName],
  replicas: ['EU' as Jurisdiction],
  otherwise: 'reject' as const,
}

const domain = (name: string, placement: DomainEntry['placement'], dataClass: DomainEntry['class']): DomainEntry => ({
  name: name as DomainName,
  class: dataClass,
  placement,
  policy: placement === 'tenant-home' || dataClass !== 'regulated' ? null : policy,
  tables: [],
})

export const domains = [
  domain('payroll', 'tenant-home', 'regulated'),
  domain('treasury', treasury, 'regulated'),
  domain('scratch', scratch, 'regulated'),
  domain('tax', treasury, 'reference'),
]

const tenants: TenantEntry[] = [
  { name: tenant as TenantName, home, policy },
  { name: otherTenant as TenantName, home: treasury, policy },
  { name: localTenant as TenantName, home: scratch, policy },
]

const schema = `
  create table runs (tenant text not null, id text not null, status text not null, cents bigint not null check (cents > 0),
    primary key (tenant, id));
  create table lines (tenant text not null, run text not null, cents bigint not null,
    foreign key (tenant, run) references runs deferrable initially deferred);
  create table holds (tenant text not null, run text not null, cents bigint not null check (cents <= 1000),
    primary key (tenant, run));
  create table notes (tenant text not null, body text not null);
  create table tax (rate integer not null);
  insert into tax values (24);
  call holdfast.govern('runs', 'payroll', 'regulated');
  call holdfast.govern('lines', 'payroll', 'regulated');
  call holdfast.govern('holds', 'treasury', 'regulated');
  call holdfast.govern('notes', 'scratch', 'regulated');
  call holdfast.govern('tax', 'tax', 'reference');
`

export interface GatewayOptions {
  readonly onStep?: OnStep
  /** Where one is expected; any other fails its test. */
  readonly onBackgroundFailure?: OnBackgroundFailure
  readonly clock?: Clock
  readonly limits?: Partial<TransactionLimits>
  readonly metrics?: Metrics
  readonly topology?: TopologySource
  readonly directory?: DirectorySource
  readonly transactionConnectionsMax?: number
}

/** One gateway process, as far as transactions go. */
export interface TestGateway {
  readonly environment: TransactionEnvironment
  /** What a kill does to the servers: its connections are gone, whatever they were doing. Resolves when they are. */
  readonly kill: () => Promise<void>
  readonly close: () => Promise<void>
}

export class DatabaseShards {
  readonly #databases: ReadonlyMap<ShardName, FreshDatabase>
  readonly #admins = new Map<ShardName, Connection>()
  readonly #gateways: TestGateway[] = []
  #topology: Topology

  private constructor(databases: ReadonlyMap<ShardName, FreshDatabase>, topology: Topology) {
    this.#databases = databases
    this.#topology = topology
  }

  /** On databases of the shared server, or of a server of the test's own. */
  static async open(makeDatabase: () => Promise<FreshDatabase> = freshDatabase): Promise<DatabaseShards> {
    const databases = new Map<ShardName, FreshDatabase>()
    const shards = new Map<ShardName, ShardTopology>()
    const regions = new Map([
      ['eu-west', 'EU'],
      ['us-east', 'US'],
    ] as [RegionName, Jurisdiction][])
    for (const name of [home, treasury, scratch]) {
      const database = await makeDatabase()
      databases.set(name, database)
      const { host, port } = database.target()
      const durability: Durability = name === scratch ? 'local' : 'quorum'
      const historyId = newRandomUuid() as HistoryId
      const region = name.slice(0, name.indexOf('/')) as RegionName
      const primary: FleetNode = { id: `${name}.1` as NodeId, shard: name, region, role: 'primary', host, port }
      shards.set(name, { name, durability, epoch: 1 as Epoch, historyId, state: 'open', primary, followers: [] })
    }
    const opened = new DatabaseShards(databases, { version: 1, fleet: 'test', regions, shards })
    await Promise.all([...shards.values()].map((shard) => opened.#found(shard)))
    return opened
  }

  get topology(): TopologySource {
    return { current: () => this.#topology, refresh: () => Promise.resolve(this.#topology) }
  }

  get directory(): Directory {
    return Directory.of(domains, initialPlacements(domains, tenants))
  }

  shard(name: ShardName): ShardTopology {
    return present(this.#topology.shards.get(name), `shard ${name}`)
  }

  /** What gateways learn of a shard at their next look. */
  replaceShard(name: ShardName, change: Partial<ShardTopology>): void {
    const shards = new Map(this.#topology.shards).set(name, { ...this.shard(name), ...change })
    this.#topology = { ...this.#topology, version: this.#topology.version + 1, shards }
  }

  /** An administrator's connection to a shard, kept until the end. */
  admin(name: ShardName): Connection {
    return present(this.#admins.get(name), `an administrator of ${name}`)
  }

  target(name: ShardName, role?: string): ConnectionTarget {
    return present(this.#databases.get(name), `shard ${name}`).target(role)
  }

  async rows<R = Record<string, unknown>>(name: ShardName, sql: string, values: readonly unknown[] = []): Promise<R[]> {
    return (await this.admin(name).query<R>(sql, values)).rows
  }

  /** Of this shard's database. */
  async prepared(name: ShardName): Promise<string[]> {
    const rows = await this.rows<{ gid: string }>(
      name,
      'select gid from pg_prepared_xacts where database = current_database()',
    )
    return rows.map(({ gid }) => gid)
  }

  async gateway(options: GatewayOptions = {}): Promise<TestGateway> {
    const pools = new ConnectionPools({
      ...poolLimitsDefault,
      transactionConnectionsMax: options.transactionConnectionsMax ?? 8,
      serviceConnectionsMax: 3,
    })
    const applicationName = `gateway-${this.#gateways.length}-${newRandomUuid().slice(0, 8)}`
    const targetOf = ({ shard, host, port }: FleetNode) => {
      return { ...this.target(shard, 'holdfast_gateway'), host, port, applicationName }
    }
    const topology = options.topology ?? this.topology
    const directory = options.directory ?? (await DirectoryStore.open({ domains, topology, pools, targetOf }))
    const environment = transactionEnvironment(
      {
        fleet: 'test',
        region: 'eu-west' as RegionName,
        topology,
        directory,
        pools,
        targetOf,
        clock: options.clock ?? systemClock,
        metrics: options.metrics ?? silentMetrics,
        onStep: options.onStep ?? noStep,
        onBackgroundFailure: options.onBackgroundFailure ?? onBackgroundFailure,
      },
      { ...transactionLimitsDefault, ...options.limits },
    )
    const kill = () =>
      eventually(async () => {
        const { rows } = await this.admin(home).query(
          'select pg_terminate_backend(pid) from pg_stat_activity where application_name = $1',
          [applicationName],
        )
        return rows.length === 0
      })
    const gateway = {
      environment,
      kill,
      close: async () => {
        await environment.background.drain()
        await pools.close()
      },
    }
    this.#gateways.push(gateway)
    return gateway
  }

  /** Breaks off what gateways still hold, those that were killed included. */
  async closeGateways(): Promise<void> {
    await Promise.all(this.#gateways.splice(0).map(({ environment }) => environment.pools.close()))
  }

  async close(): Promise<void> {
    await this.closeGateways()
    for (const [name, admin] of this.#admins) {
      for (const gid of await this.prepared(name)) await admin.query(`rollback prepared '${gid}'`)
      admin.release()
    }
    await Promise.all([...this.#databases.values()].map((database) => database.drop()))
  }

  async #found(shard: ShardTopology): Promise<void> {
    const admin = await Connection.connect(this.target(shard.name), 10_000)
    this.#admins.set(shard.name, admin)
    await admin.query('call holdfast.found_shard($1, $2, $3, $4, $5)', [
      'test',
      shard.name,
      shard.durability,
      shard.historyId,
      500,
    ])
    await admin.script(schema)
    await writePlacements(admin, initialPlacements(domains, tenants))
  }
}
