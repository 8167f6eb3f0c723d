import { chmod, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { configBelow } from '../../examples/payledger/demo/config.ts'
import { onboard } from '../../examples/payledger/payledger.ts'
import { employeesOf, openingBalanceCents } from '../../examples/payledger/seed.ts'
import type { Progress } from '../../src/base/progress.ts'
import { silentProgress } from '../../src/base/progress.ts'
import type { OnStep } from '../../src/base/step.ts'
import { noStep } from '../../src/base/step.ts'
import type { NodeId, ShardName } from '../../src/directory/topology.ts'
import type { FleetConfig, FleetConfigInput } from '../../src/fleet/config.ts'
import type { EmbeddedFleet, FleetRuntime } from '../../src/fleet/fleet.ts'
import { attachFleet, quietRuntime, resolveConfig, startFleet } from '../../src/fleet/fleet.ts'
import type { Gateway } from '../../src/fleet/gateway.ts'
import type { RoleName } from '../../src/fleet/keys.ts'
import { nodeOf } from '../../src/fleet/shard-servers.ts'
import type { NodeDocument } from '../../src/fleet/topology-store.ts'
import type { Supervisor } from '../../src/fleet/supervisor.ts'
import type { Row } from '../../src/postgres/statement.ts'
import { Connection } from '../../src/postgres/connection.ts'
import { withConnection } from '../../src/postgres/postgres.ts'
import type { Faults } from '../../src/testing.ts'
import { faultsOf } from '../../src/testing.ts'
import { eventually } from './eventually.ts'

/** A fresh folder for one test file, short and enterable by the servers' user. */
export async function temporaryFolder(): Promise<string> {
  const root = await mkdtemp(join(tmpdir(), 'hft-'))
  await chmod(root, 0o755)
  return root
}

export interface TestFleetOptions {
  /** Changes the configuration of PayLedger before the start. */
  readonly adapt?: (config: FleetConfigInput) => FleetConfigInput
  readonly wan?: boolean | number
  /** At every step of what the supervisor does. */
  readonly onStep?: OnStep
  /** What the supervisor tells. */
  readonly progress?: Progress
}

/**
 * PayLedger's fleet on servers of its own: a supervisor in this process, and gateways that attach to it as those of
 * other processes do. Closing it leaves no process and no file.
 */
export class TestFleet {
  readonly root: string
  readonly config: FleetConfig
  readonly #embedded: EmbeddedFleet
  readonly #gateways: Gateway[] = []

  private constructor(root: string, config: FleetConfig, embedded: EmbeddedFleet) {
    this.root = root
    this.config = config
    this.#embedded = embedded
  }

  static async open({
    adapt = (config) => config,
    wan = false,
    onStep = noStep,
    progress = silentProgress,
  }: TestFleetOptions = {}): Promise<TestFleet> {
    const root = await temporaryFolder()
    try {
      const { reference, config } = await resolveConfig({ config: adapt(await configBelow(root)) })
      return new TestFleet(
        root,
        config,
        await startFleet(reference, config, wan, { ...quietRuntime, onStep, progress }),
      )
    } catch (error) {
      await rm(root, { recursive: true, force: true, maxRetries: 5 })
      throw error
    }
  }

  get supervisor(): Supervisor {
    return this.#embedded.supervisor
  }

  /** A gateway in this process; closed with the fleet. */
  async gateway(region: string, runtime: Partial<FleetRuntime> = {}): Promise<Gateway> {
    const gateway = await attachFleet(this.config.dataDir, region, { ...quietRuntime, ...runtime })
    this.#gateways.push(gateway)
    return gateway
  }

  faults(gateway: Gateway): Faults {
    return faultsOf(gateway)
  }

  /** Asks the primary of a shard as its administrator. */
  async ask<R = Row>(shard: string, text: string, values: readonly unknown[] = []): Promise<R[]> {
    const { rows } = await withConnection(this.supervisor.shardServers.adminTarget(this.primary(shard)), (admin) =>
      admin.query<R>(text, values),
    )
    return rows
  }

  /** Asks one node as its administrator. */
  async askNode<R = Row>(id: string, text: string, values: readonly unknown[] = []): Promise<R[]> {
    const { rows } = await withConnection(this.supervisor.shardServers.adminTarget(this.node(id)), (admin) =>
      admin.query<R>(text, values),
    )
    return rows
  }

  node(id: string): NodeDocument {
    const nodes = Object.values(this.supervisor.topology.document.shards).flatMap((shard) => shard.nodes)
    const node = nodes.find((one) => one.id === id)
    if (node === undefined) throw new Error(`no node ${id} in the topology`)
    return node
  }

  /** A raw connection to the primary of a shard, as any role. */
  connect(shard: string, role: RoleName): Promise<Connection> {
    return Connection.connect(this.supervisor.servers.target(this.primary(shard), role, 'test'), 5_000)
  }

  primary(shard: string) {
    const document = this.supervisor.topology.document.shards[shard as ShardName]
    if (document === undefined) throw new Error(`no shard ${shard}`)
    return nodeOf(document, document.primary)
  }

  /** The prepared transactions of all primaries. */
  async prepared(): Promise<string[]> {
    const shards = Object.keys(this.supervisor.topology.document.shards)
    const perShard = await Promise.all(
      shards.map((shard) => this.ask<{ gid: string }>(shard, 'select gid from pg_prepared_xacts')),
    )
    return perShard.flat().map(({ gid }) => gid)
  }

  /** Waits until the places that an earlier promotion left empty are filled again, which takes a primary. */
  async whole(shard: string): Promise<void> {
    const left = () => this.supervisor.topology.document.shards[shard as ShardName]?.retired?.length ?? 0
    await eventually(() => left() === 0, 180_000)
  }

  /** Once the shard is whole: the region that is asked for may be one that an earlier promotion left. */
  async failover(shard: string, to?: string): Promise<void> {
    await this.whole(shard)
    await this.#embedded.call('failover', { shard, ...(to === undefined ? {} : { to }) }, silentProgress)
  }

  nodesOf(shard: string): readonly NodeId[] {
    return this.supervisor.topology.document.shards[shard as ShardName]?.nodes.map(({ id }) => id) ?? []
  }

  async close(): Promise<void> {
    await Promise.all(this.#gateways.map((gateway) => gateway.close()))
    await this.#embedded.stop()
    await rm(this.root, { recursive: true, force: true, maxRetries: 5 })
  }
}

/** People and cash for a tenant, settled everywhere, so that its runs can be drafted and approved without its token. */
export async function seedTenant(gateway: Gateway, tenant: string): Promise<void> {
  const { session } = await onboard(gateway, {
    tenant,
    employees: employeesOf(tenant),
    balanceCents: openingBalanceCents,
    actor: `manager@${tenant}.example`,
  })
  await gateway.read({ tenant, session, level: 'primary' }, (read) =>
    read.query('treasury', 'select id from treasury_accounts'),
  )
}
