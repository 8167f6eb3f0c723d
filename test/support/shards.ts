import { present } from '../../src/base/assert.ts'
import { newRandomUuid } from '../../src/base/random.ts'
import type { DomainEntry, TenantEntry } from '../../src/directory/directory.ts'
import { initialPlacements } from '../../src/directory/directory.ts'
import type {
  Durability,
  Epoch,
  FleetNode,
  HistoryId,
  Jurisdiction,
  NodeId,
  RegionName,
  ShardName,
  ShardTopology,
  Topology,
  TopologySource,
} from '../../src/directory/topology.ts'
import { writePlacements } from '../../src/fleet/founding.ts'
import { nodeSettings, slotName, synchronousStandbyNames } from '../../src/fleet/node-settings.ts'
import type { ConnectionTarget } from '../../src/postgres/statement.ts'
import { Connection } from '../../src/postgres/connection.ts'
import { installSchema } from '../../src/postgres/schema.ts'
import { buildFollower, waitStreaming } from '../../src/postgres/server/follower.ts'
import type { LocalServer } from '../../src/postgres/server/local-server.ts'
import { ServerYard } from './servers.ts'

/** Real shards of a test's own: each a primary with followers that its commits wait for. */

export interface ShardPlan {
  readonly name: string
  /** Of the primary; the shard's region of birth when left out. */
  readonly region?: string
  /** Regions of the followers. */
  readonly followers: readonly string[]
}

export interface ShardsPlan {
  /** Region to jurisdiction. */
  readonly regions: Readonly<Record<string, string>>
  readonly shards: readonly ShardPlan[]
  readonly domains: readonly DomainEntry[]
  readonly tenants: readonly TenantEntry[]
  /** Run on every primary by an administrator, after the schema of Holdfast. */
  readonly schema: string
}

export type TestRole = 'holdfast_admin' | 'holdfast_gateway' | 'holdfast_app' | 'holdfast_replication'

const databaseName = 'holdfast'

export class TestShards {
  readonly plan: ShardsPlan
  readonly #yard: ServerYard
  readonly #servers = new Map<NodeId, LocalServer>()
  #topology: Topology

  private constructor(plan: ShardsPlan, yard: ServerYard) {
    this.plan = plan
    this.#yard = yard
    const regions = Object.entries(plan.regions) as [RegionName, Jurisdiction][]
    this.#topology = { version: 1, fleet: 'test', regions: new Map(regions), shards: new Map() }
  }

  static async open(plan: ShardsPlan): Promise<TestShards> {
    const shards = new TestShards(plan, await ServerYard.open())
    try {
      await Promise.all(plan.shards.map((shard) => shards.#found(shard)))
    } catch (error) {
      await shards.close()
      throw error
    }
    return shards
  }

  /** What gateways see; `replaceShard` changes it. */
  get topology(): TopologySource {
    return { current: () => this.#topology, refresh: () => Promise.resolve(this.#topology) }
  }

  shard(name: string): ShardTopology {
    return present(this.#topology.shards.get(name as ShardName), `shard ${name} is planned`)
  }

  node(id: string): FleetNode {
    const nodes = [...this.#topology.shards.values()].flatMap((shard) => [shard.primary, ...shard.followers])
    return present(
      nodes.find((node) => node.id === id),
      `node ${id} is planned`,
    )
  }

  server(id: string): LocalServer {
    return present(this.#servers.get(id as NodeId), `node ${id} was started`)
  }

  /** The account that servers run as. */
  get user() {
    return this.#yard.user
  }

  replaceShard(shard: ShardTopology): void {
    const shards = new Map(this.#topology.shards).set(shard.name, shard)
    this.#topology = { ...this.#topology, version: this.#topology.version + 1, shards }
  }

  target(node: Pick<FleetNode, 'host' | 'port'>, role: TestRole = 'holdfast_admin'): ConnectionTarget {
    const { host, port } = node
    return { host, port, user: role, password: this.#yard.password, database: databaseName, applicationName: 'test' }
  }

  readonly targetOf = (node: FleetNode): ConnectionTarget => this.target(node, 'holdfast_gateway')

  /** A connection of the test's own to a node; release it. */
  connect(id: string, role: TestRole = 'holdfast_admin'): Promise<Connection> {
    return Connection.connect(this.target(this.node(id), role), 10_000)
  }

  async close(): Promise<void> {
    await this.#yard[Symbol.asyncDispose]()
  }

  async #found(plan: ShardPlan): Promise<void> {
    const name = plan.name as ShardName
    const region = (plan.region ?? plan.name.slice(0, plan.name.indexOf('/'))) as RegionName
    const durability: Durability = plan.followers.length === 0 ? 'local' : 'quorum'
    const primary = this.#place(name, region, 'primary', 1)
    const followers = plan.followers.map((at, index) => this.#place(name, at as RegionName, 'follower', index + 2))
    const waiting = synchronousStandbyNames({ durability, survive: 'node' }, region, followers)

    const server = this.server(primary.id)
    await this.#yard.initialise(server)
    await server.start()
    const historyId = newRandomUuid() as HistoryId
    await this.#install(primary, name, durability, historyId)
    await Promise.all(followers.map((follower) => this.#follow(primary, follower)))
    await server.configure({ ...this.#settings(), synchronous_standby_names: waiting })
    const admin = await Connection.connect(this.target(primary), 10_000)
    try {
      for (const follower of followers) await waitStreaming(admin, follower.id, 30_000)
      // The settings are in force for this connection once it sees them, and a barrier shows that they hold.
      while (
        (await admin.query<{ s: string }>(`select current_setting('synchronous_standby_names') as s`)).rows[0]?.s !==
        waiting
      );
      await admin.query('select holdfast.barrier()')
    } finally {
      admin.release()
    }
    this.replaceShard({ name, durability, epoch: 1 as Epoch, historyId, state: 'open', primary, followers })
  }

  #place(shard: ShardName, region: RegionName, role: FleetNode['role'], number: number): FleetNode {
    const id = `${shard}.${number}` as NodeId
    const server = this.#yard.server(id.replaceAll(/[^a-z0-9]/g, '_'), this.#settings())
    this.#servers.set(id, server)
    return { id, shard, region, role, host: server.socketDir, port: server.port }
  }

  #settings() {
    return { ...nodeSettings(this.#yard.binaries.major), fsync: false }
  }

  async #install(node: FleetNode, shard: ShardName, durability: Durability, historyId: HistoryId): Promise<void> {
    const postgres = await Connection.connect({ ...this.target(node), database: 'postgres' }, 10_000)
    await postgres.query(`create database ${databaseName}`)
    postgres.release()
    const admin = await Connection.connect(this.target(node), 10_000)
    try {
      await installSchema(admin)
      for (const role of ['holdfast_gateway', 'holdfast_app', 'holdfast_replication']) {
        await admin.query('call holdfast.set_role_password($1, $2)', [role, this.#yard.password])
      }
      await admin.query('call holdfast.found_shard($1, $2, $3, $4, $5)', ['test', shard, durability, historyId, 500])
      await admin.script(this.plan.schema)
      await writePlacements(admin, initialPlacements(this.plan.domains, this.plan.tenants))
    } finally {
      admin.release()
    }
  }

  async #follow(primary: FleetNode, follower: FleetNode): Promise<void> {
    const server = this.server(follower.id)
    const upstream = {
      primary: this.target(primary, 'holdfast_replication'),
      applicationName: follower.id,
      slot: slotName(follower.id),
    }
    await buildFollower({ upstream, dataDir: server.dataDir, user: this.#yard.user })
    await server.start()
  }
}
