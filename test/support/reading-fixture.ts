import { afterAll, afterEach, beforeAll, beforeEach } from 'vitest'
import type { TenantEntry } from '../../src/directory/directory.ts'
import type { NodeId } from '../../src/directory/topology.ts'
import type { Connection } from '../../src/postgres/connection.ts'
import { eventually } from './eventually.ts'
import { payrollPlan } from './payroll-plan.ts'
import type { ReadingGateway, ReadingGatewayOptions } from './reading-gateway.ts'
import { openReadingGateway } from './reading-gateway.ts'
import type { ShardPlan } from './shards.ts'
import { TestShards } from './shards.ts'

/** Shards of one test file, a gateway of each test's own, and an administrator at every node. */
export interface ReadingFixture {
  readonly shards: TestShards
  /** Of the running test. */
  readonly gateway: ReadingGateway
  /** Another gateway, closed after the test. */
  readonly open: (options: ReadingGatewayOptions) => Promise<ReadingGateway>
  /** Rows of a statement that an administrator sends to a node. */
  readonly on: <R = Record<string, unknown>>(id: NodeId, sql: string, values?: readonly unknown[]) => Promise<R[]>
  /** From here on until the end of the test the node receives the log and shows nothing new. */
  readonly holdBack: (id: NodeId) => Promise<void>
  readonly letGo: (id: NodeId) => Promise<void>
}

interface Running {
  readonly shards: TestShards
  readonly admins: ReadonlyMap<NodeId, Connection>
}

export function useReadingShards(
  plan: readonly ShardPlan[],
  options: ReadingGatewayOptions = {},
  moreTenants: readonly TenantEntry[] = [],
): ReadingFixture {
  let running: Running | undefined
  let gateways: ReadingGateway[] = []
  let held: NodeId[] = []
  const now = (): Running => {
    if (running === undefined) throw new Error('the shards are not open')
    return running
  }
  const fixture: ReadingFixture = {
    get shards() {
      return now().shards
    },
    get gateway() {
      const [first] = gateways
      if (first === undefined) throw new Error('no test is running')
      return first
    },
    open: async (more) => {
      const gateway = await openReadingGateway(now().shards, more)
      gateways.push(gateway)
      return gateway
    },
    on: async <R>(id: NodeId, sql: string, values: readonly unknown[] = []) => {
      const admin = now().admins.get(id)
      if (admin === undefined) throw new Error(`no connection to ${id}`)
      return (await admin.query<R>(sql, values)).rows
    },
    holdBack: async (id) => {
      held.push(id)
      await fixture.on(id, 'select pg_wal_replay_pause()')
      await eventually(async () => {
        const [row] = await fixture.on<{ state: string }>(id, 'select pg_get_wal_replay_pause_state() as state')
        return row?.state === 'paused'
      })
    },
    letGo: async (id) => {
      await fixture.on(id, 'select pg_wal_replay_resume()')
    },
  }
  beforeAll(async () => {
    const shards = await TestShards.open(payrollPlan(plan, moreTenants))
    const nodes = [...shards.topology.current().shards.values()].flatMap((shard) => [shard.primary, ...shard.followers])
    const connected = nodes.map(async ({ id }) => [id, await shards.connect(id)] as const)
    running = { shards, admins: new Map(await Promise.all(connected)) }
  })
  beforeEach(async () => {
    await fixture.open(options)
  })
  afterEach(async () => {
    await Promise.all(gateways.map((gateway) => gateway.close()))
    gateways = []
    for (const id of held) await fixture.letGo(id)
    held = []
  })
  afterAll(async () => {
    for (const admin of running?.admins.values() ?? []) admin.release()
    await running?.shards.close()
  })
  return fixture
}
