import { afterEach, beforeEach, expect, test } from 'vitest'
import { systemClock } from '../../src/base/clock.ts'
import { silentMetrics } from '../../src/base/metrics.ts'
import { newRandomUuid } from '../../src/base/random.ts'
import type { OnStep } from '../../src/base/step.ts'
import { noStep } from '../../src/base/step.ts'
import { DirectoryStore } from '../../src/directory/directory-store.ts'
import type {
  Epoch,
  HistoryId,
  RegionName,
  ShardName,
  Topology,
  TopologySource,
  TransactionId,
} from '../../src/directory/topology.ts'
import { ConnectionPools } from '../../src/postgres/pools.ts'
import type { TransactionEnvironment, TransactionLimits, TransactionParts } from '../../src/transaction/environment.ts'
import { transactionEnvironment, transactionLimitsDefault } from '../../src/transaction/environment.ts'
import { lookUpOutcome } from '../../src/transaction/outcome.ts'
import { Resolver, resolverLimitsDefault } from '../../src/transaction/resolver.ts'
import { transact } from '../../src/transaction/transaction.ts'
import { onBackgroundFailure } from '../support/background-failure.ts'
import { acknowledgedBy, startAcknowledging, untilInForce } from '../support/acknowledging-follower.ts'
import { gate } from '../support/approval.ts'
import type { Running } from '../support/archive.ts'
import { eventually } from '../support/eventually.ts'
import { payrollPlan, payrollShard, treasuryShard } from '../support/payroll-plan.ts'
import { promoteBeside } from '../support/promotion.ts'
import { TestShards } from '../support/shards.ts'

/** Branches in doubt while a primary is lost: at the participant, and at the home that decided. */

const tenant = 'globex-eu'

let shards: TestShards | undefined
let pools: ConnectionPools[] = []
/** Of promoted servers. */
let followers: Running[] = []

async function openShards(): Promise<TestShards> {
  shards = await TestShards.open(
    payrollPlan([
      { name: payrollShard, followers: ['eu-west'] },
      { name: treasuryShard, followers: ['us-east'] },
    ]),
  )
  return shards
}

beforeEach(openShards)

afterEach(async () => {
  await Promise.all(pools.map((pool) => pool.close()))
  pools = []
  await Promise.all(followers.map((follower) => follower.stop()))
  followers = []
  await shards?.close()
  shards = undefined
})

async function gateway(
  cluster: TestShards,
  onStep: OnStep = noStep,
  topology: TopologySource = cluster.topology,
  limits: Partial<TransactionLimits> = {},
): Promise<TransactionEnvironment> {
  const pool = new ConnectionPools()
  pools.push(pool)
  const { targetOf } = cluster
  const directory = await DirectoryStore.open({
    domains: cluster.plan.domains,
    topology: cluster.topology,
    pools: pool,
    targetOf,
  })
  const parts: TransactionParts = {
    fleet: 'test',
    region: 'eu-west' as RegionName,
    topology,
    directory,
    pools: pool,
    targetOf,
    clock: systemClock,
    metrics: silentMetrics,
    onStep,
    onBackgroundFailure,
  }
  return transactionEnvironment(parts, { ...transactionLimitsDefault, ...limits })
}

/** What every approval locks on the treasury, for who waits until none is under way. */
const drained = 1014

const approve = (environment: TransactionEnvironment, run: string) =>
  transact(environment, { tenant, action: 'payroll.approve', subject: run, actor: 'm' }, async (tx) => {
    await tx.query('payroll', `insert into runs (tenant, id, status) values ($1, $2, 'approved')`, [tenant, run])
    tx.batch('treasury', [
      ['select pg_advisory_xact_lock_shared($1, 0)', [drained]],
      ['insert into holds (tenant, run, amount) values ($1, $2, 10)', [tenant, run]],
    ])
  })

/** Loses the primary of a shard and opens its only follower, at the next epoch, with a history and a follower of its own. */
async function failOver(cluster: TestShards, name: ShardName): Promise<void> {
  const before = cluster.shard(name)
  const [successor] = before.followers
  if (successor === undefined) throw new Error('the plan gives every shard a follower')
  await cluster.server(before.primary.id).stop('immediate')
  const target = cluster.target(successor)
  followers.push(startAcknowledging(target))
  const admin = await cluster.connect(successor.id)
  const epoch = (before.epoch + 1) as Epoch
  const historyId = newRandomUuid() as HistoryId
  await admin.query('select pg_promote(true)')
  await admin.query(`alter system set synchronous_standby_names = '${acknowledgedBy}'`)
  await admin.query('select pg_reload_conf()')
  await untilInForce(target, acknowledgedBy)
  await admin.query(`call holdfast.open_history($1, $2, pg_current_wal_lsn(), 'promotion', '{}')`, [historyId, epoch])
  await admin.query('call holdfast.open_shard($1)', [epoch])
  admin.release()
  cluster.replaceShard({ ...before, epoch, historyId, primary: { ...successor, role: 'primary' }, followers: [] })
}

async function ask<R>(cluster: TestShards, node: string, sql: string, values: readonly unknown[] = []): Promise<R[]> {
  const admin = await cluster.connect(node)
  try {
    return (await admin.query<R>(sql, values)).rows
  } finally {
    admin.release()
  }
}

const prepared = (cluster: TestShards, node: string) =>
  ask<{ gid: string }>(cluster, node, 'select gid from pg_prepared_xacts')
const runs = async (cluster: TestShards) =>
  (await ask<{ id: string }>(cluster, cluster.shard(payrollShard).primary.id, 'select id from runs order by id')).map(
    ({ id }) => id,
  )
const holds = async (cluster: TestShards) =>
  (
    await ask<{ run: string }>(cluster, cluster.shard(treasuryShard).primary.id, 'select run from holds order by run')
  ).map(({ run }) => run)

/** One decided and one undecided transaction, each with its branch prepared and its gateway gone for good. */
async function leaveBranches(cluster: TestShards): Promise<TransactionId> {
  const decided = gate('global decision row')
  const { transactionId } = await approve(await gateway(cluster, decided.onStep), 'decided')
  await decided.reached
  const undecided = gate('global record inserted')
  approve(await gateway(cluster, undecided.onStep), 'undecided').catch(() => undefined)
  await undecided.reached
  expect(await prepared(cluster, `${treasuryShard}.1`)).toHaveLength(2)
  await Promise.all(pools.map((pool) => pool.close()))
  return transactionId
}

async function resolveAll(cluster: TestShards): Promise<void> {
  const resolver = new Resolver({
    environment: await gateway(cluster),
    limits: { ...resolverLimitsDefault, scanEveryMs: 10, settleAfterMs: 0, abortAfterMs: 0, electionEveryMs: 10 },
  })
  const stop = new AbortController()
  const running = resolver.run(stop.signal)
  await eventually(async () => (await prepared(cluster, cluster.shard(treasuryShard).primary.id)).length === 0)
  stop.abort()
  await running
}

test('HZ-X7: branches survive the failover of their participant, unseen on the follower, and settle on the new primary', async () => {
  const cluster = shards ?? (await openShards())
  await leaveBranches(cluster)
  expect(await prepared(cluster, `${treasuryShard}.2`)).toEqual([])
  await failOver(cluster, treasuryShard)
  expect(await prepared(cluster, `${treasuryShard}.2`)).toHaveLength(2)
  await resolveAll(cluster)
  expect([await runs(cluster), await holds(cluster)]).toEqual([['decided'], ['decided']])
})

test('HZ-X9: who waits for the advisory lock of branches has waited for their settlement, over a failover and a crash', async () => {
  const cluster = shards ?? (await openShards())
  await leaveBranches(cluster)
  const isDrained = async () => {
    const { primary } = cluster.shard(treasuryShard)
    const [row] = await ask<{ free: boolean }>(cluster, primary.id, 'select pg_try_advisory_xact_lock($1, 0) as free', [
      drained,
    ])
    return row?.free
  }
  expect(await isDrained()).toBe(false)
  await failOver(cluster, treasuryShard)
  expect(await isDrained()).toBe(false)
  const server = cluster.server(`${treasuryShard}.2`)
  await server.stop('immediate')
  await server.start()
  expect(await isDrained()).toBe(false)
  await resolveAll(cluster)
  expect(await isDrained()).toBe(true)
})

test('HZ-X7: a resolver that was elected before goes on at the new primary', async () => {
  const cluster = shards ?? (await openShards())
  await leaveBranches(cluster)
  let isOver = false
  const limits = {
    ...resolverLimitsDefault,
    scanEveryMs: 10,
    electionEveryMs: 10,
    abortAfterMs: 0,
    // Until the failover it leaves every branch alone.
    get settleAfterMs() {
      return isOver ? 0 : Number.POSITIVE_INFINITY
    },
  }
  let scans = 0
  const environment = await gateway(cluster, async (step, where) => {
    if (step === 'resolver scan' && where?.shard === treasuryShard) scans += 1
  })
  const stop = new AbortController()
  const running = new Resolver({ environment, limits }).run(stop.signal)
  await eventually(() => scans > 0)
  await failOver(cluster, treasuryShard)
  isOver = true
  await eventually(async () => (await prepared(cluster, `${treasuryShard}.2`)).length === 0)
  stop.abort()
  await running
  expect([await runs(cluster), await holds(cluster)]).toEqual([['decided'], ['decided']])
})

test('a decision survives the failover of its home, and settles the branch under the new epoch', async () => {
  const cluster = shards ?? (await openShards())
  const transactionId = await leaveBranches(cluster)
  await failOver(cluster, payrollShard)
  await resolveAll(cluster)
  expect([await runs(cluster), await holds(cluster)]).toEqual([['decided'], ['decided']])
  const environment = await gateway(cluster)
  expect(await lookUpOutcome(environment, transactionId)).toMatchObject({ outcome: 'committed', home: payrollShard })
  const peers = await ask(cluster, `${treasuryShard}.1`, 'select shard, epoch from holdfast.peer')
  expect(peers).toEqual([{ shard: payrollShard, epoch: 2 }])
  await approve(environment, 'later')
  await environment.background.drain()
  expect([await runs(cluster), await holds(cluster)]).toEqual([
    ['decided', 'later'],
    ['decided', 'later'],
  ])
})

test('S11: a gateway that has not heard of the promotion of a participant tells no write as lost that the new primary has', async () => {
  const cluster = shards ?? (await openShards())
  const before = cluster.topology.current()
  // Frozen meanwhile, it goes on afterwards, and takes itself for the primary.
  const old = cluster.server(`${treasuryShard}.1`)
  await old.pause()
  await promoteBeside(cluster, treasuryShard, followers)
  await old.resume()
  const decided = gate('global decision row')
  const { transactionId } = await approve(await gateway(cluster, decided.onStep), 'decided')
  await decided.reached

  let known = before
  const look = async (learnt: () => Topology) => {
    const topology = { current: () => known, refresh: () => Promise.resolve((known = learnt())) }
    const environment = await gateway(cluster, noStep, topology, { serviceWithinMs: 1_000 })
    const pending = [{ shard: treasuryShard, transactionId }]
    const looking = { tenant, action: 'payroll.look', subject: 'decided', actor: 'm', pending }
    return transact(environment, looking, async (tx) => (await tx.query('treasury', 'select run from holds')).rowCount)
  }
  await expect(look(() => before)).rejects.toMatchObject({ code: 'node_unavailable', retry: 'safe' })
  expect((await look(() => cluster.topology.current())).value).toBe(1)
  decided.release()
})
