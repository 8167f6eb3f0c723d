import { afterAll, afterEach, beforeAll, expect, test } from 'vitest'
import { systemClock } from '../../src/base/clock.ts'
import { silentMetrics } from '../../src/base/metrics.ts'
import { newTimeOrderedUuid } from '../../src/base/random.ts'
import type { OnStep } from '../../src/base/step.ts'
import { noStep } from '../../src/base/step.ts'
import { DirectoryStore } from '../../src/directory/directory-store.ts'
import type { FleetNode, RegionName, Topology, TransactionId } from '../../src/directory/topology.ts'
import { ConnectionPools } from '../../src/postgres/pools.ts'
import { withConnection } from '../../src/postgres/postgres.ts'
import { read } from '../../src/reading/reading.ts'
import { passBarrier } from '../../src/transaction/barrier.ts'
import { acceptClock } from '../../src/transaction/clock-acceptance.ts'
import type { TransactionEnvironment, TransactionLimits } from '../../src/transaction/environment.ts'
import { transactionEnvironment, transactionLimitsDefault } from '../../src/transaction/environment.ts'
import { lookUpOutcome } from '../../src/transaction/outcome.ts'
import { Resolver } from '../../src/transaction/resolver.ts'
import { settleDecided } from '../../src/transaction/settle-decided.ts'
import type { TransactRequest } from '../../src/transaction/transaction.ts'
import { transact } from '../../src/transaction/transaction.ts'
import { onBackgroundFailure } from '../support/background-failure.ts'
import { eager, gate } from '../support/approval.ts'
import type { Running } from '../support/archive.ts'
import { ClockKeepers } from '../support/clock-keepers.ts'
import { eventually } from '../support/eventually.ts'
import { payrollPlan, payrollShard, treasuryShard } from '../support/payroll-plan.ts'
import { nameFollowers, promoteBeside } from '../support/promotion.ts'
import { readingIn } from '../support/reading-gateway.ts'
import { TestShards } from '../support/shards.ts'

/**
 * Promotions that cannot reach the old primary: it is frozen meanwhile, goes on afterwards, and takes itself for the primary.
 * The tests are one story on one cluster: two promotions of the home, each with an old primary that lives.
 */
const tenant = 'globex-eu'
const quick = { commitWithinMs: 400, outcomeWithinMs: 400, serviceWithinMs: 1_000 } as const

let cluster: TestShards
const followers: Running[] = []
const pools: ConnectionPools[] = []

beforeAll(async () => {
  cluster = await TestShards.open(
    payrollPlan([
      { name: payrollShard, followers: ['eu-west', 'eu-west'] },
      { name: treasuryShard, followers: ['us-east'] },
    ]),
  )
})

afterEach(async () => {
  await Promise.all(pools.splice(0).map((pool) => pool.close()))
})

afterAll(async () => {
  await Promise.all(followers.map((follower) => follower.stop()))
  await cluster?.close()
})

/** A gateway that knows what `topology` says, however old that is. */
async function gateway(
  topology: () => Topology = () => cluster.topology.current(),
  limits: Partial<TransactionLimits> = {},
  onStep: OnStep = noStep,
): Promise<TransactionEnvironment> {
  const pool = new ConnectionPools()
  pools.push(pool)
  const source = { current: topology, refresh: () => Promise.resolve(topology()) }
  const { targetOf } = cluster
  const directory = await DirectoryStore.open({
    domains: cluster.plan.domains,
    topology: cluster.topology,
    pools: pool,
    targetOf,
  })
  return transactionEnvironment(
    {
      fleet: 'test',
      region: 'eu-west' as RegionName,
      topology: source,
      directory,
      pools: pool,
      targetOf,
      clock: systemClock,
      metrics: silentMetrics,
      onStep,
      onBackgroundFailure,
    },
    { ...transactionLimitsDefault, ...limits },
  )
}

const request = (subject: string, idempotencyKey?: string): TransactRequest => ({
  tenant,
  action: 'payroll.approve',
  subject,
  actor: 'm',
  ...(idempotencyKey === undefined ? {} : { idempotencyKey }),
})

type Chosen = Pick<TransactRequest, 'transactionId'>
/** A caller that chose the id is tried once. */
const once = (): Chosen => ({ transactionId: newTimeOrderedUuid() as TransactionId })

const approve = (environment: TransactionEnvironment, run: string, key?: string, chosen: Chosen = {}) =>
  transact(environment, { ...request(run, key), ...chosen }, async (tx) => {
    await tx.query('payroll', `insert into runs (tenant, id, status) values ($1, $2, 'approved')`, [tenant, run])
    tx.batch('treasury', [['insert into holds (tenant, run, amount) values ($1, $2, 10)', [tenant, run]]])
    return run
  })

const record = (environment: TransactionEnvironment, run: string, chosen: Chosen = {}) =>
  transact(environment, { ...request(run), ...chosen }, (tx) =>
    tx.query('payroll', `insert into runs (tenant, id, status) values ($1, $2, 'draft')`, [tenant, run]),
  )

/** The runs that have a hold, as a `strong` read of this gateway finds them. */
async function readStrongly(environment: TransactionEnvironment): Promise<string[]> {
  const { value } = await read(readingIn(environment), { tenant, level: 'strong' }, (reader) =>
    reader.query<{ run: string }>('treasury', 'select run from holds order by run'),
  )
  return value.rows.map(({ run }) => run)
}

const ask = async <R>(node: Pick<FleetNode, 'host' | 'port'>, sql: string, values: readonly unknown[] = []) =>
  (await withConnection(cluster.target(node), (admin) => admin.query<R & Record<string, unknown>>(sql, values))).rows

const runs = (node: FleetNode, run: string) => ask(node, 'select from runs where id = $1', [run])
const holds = (run: string) => ask(cluster.shard(treasuryShard).primary, 'select from holds where run = $1', [run])
const prepared = () => ask<{ gid: string }>(cluster.shard(treasuryShard).primary, 'select gid from pg_prepared_xacts')
const waiting = (node: FleetNode) => ask(node, `select from pg_stat_activity where wait_event = 'SyncRep'`)

async function ambiguousId(promise: Promise<unknown>): Promise<TransactionId> {
  const error: unknown = await promise.then(
    () => 'it was acknowledged',
    (reason: unknown) => reason,
  )
  expect(error).toMatchObject({ code: 'outcome_ambiguous' })
  return (error as { detail: { transactionId: TransactionId } }).detail.transactionId
}

/** Promotes while the old primary is frozen. It lives on afterwards. */
async function promoteWhileFrozen(): Promise<{ before: Topology; old: FleetNode; next: FleetNode }> {
  const before = cluster.topology.current()
  const old = cluster.shard(payrollShard).primary
  await cluster.server(old.id).pause()
  const next = await promoteBeside(cluster, payrollShard, followers)
  await cluster.server(old.id).resume()
  return { before, old, next }
}

async function resolveAll(environment: TransactionEnvironment): Promise<void> {
  const resolver = new Resolver({ environment, limits: eager })
  await eventually(async () => {
    await resolver.resolveOnce(treasuryShard)
    return (await prepared()).length === 0
  })
}

/** Of the first promotion: what the old primary's gateways know. */
let before: Topology
let old: FleetNode

test('a decision that was sent and not answered is told by the new primary, and its key tells it again', async () => {
  const primary = cluster.shard(payrollShard).primary
  let view = cluster.topology.current()
  const environment = await gateway(() => view, { ...quick, commitWithinMs: 2_000 })
  await approve(environment, 'before')
  await environment.background.drain()
  // It reaches the followers and waits for somebody else: nobody is answered.
  await nameFollowers(cluster, primary, 'ANY 1 (missing)')
  const id = await ambiguousId(approve(environment, 'decided', 'key-decided'))
  expect(await waiting(primary)).toHaveLength(1)
  await eventually(async () =>
    (await Promise.all(cluster.shard(payrollShard).followers.map((node) => runs(node, 'decided')))).every(
      ({ length }) => length === 1,
    ),
  )
  ;({ before, old } = await promoteWhileFrozen())
  expect(await lookUpOutcome(await gateway(), id)).toMatchObject({ outcome: 'committed', home: payrollShard })
  // The old home hides the decision: it still waits there for followers. Who asks it learns nothing.
  const late = await gateway(() => before, quick)
  await expect(settleDecided(late, treasuryShard, 200)).rejects.toMatchObject({ code: 'node_unavailable' })
  await expect(readStrongly(late)).rejects.toMatchObject({ code: 'node_unavailable' })
  const accepting = acceptClock(late, treasuryShard, { actor: 'm', reason: 'test' }, () => Promise.resolve())
  await expect(accepting).rejects.toMatchObject({ code: 'node_unavailable' })
  expect(await readStrongly(await gateway())).toEqual(['before', 'decided'])
  view = cluster.topology.current()
  const again = await approve(await gateway(), 'decided', 'key-decided')
  expect(again).toMatchObject({ transactionId: id, replayed: true, value: 'decided' })
  await resolveAll(await gateway())
  expect(await holds('decided')).toHaveLength(1)
})

test('V5, HZ-F2: a write on the old primary is told to nobody, and the new one says that it is not there', async () => {
  const stale = await gateway(() => before, quick)
  const id = await ambiguousId(record(stale, 'nowhere'))
  expect(await waiting(old)).not.toHaveLength(0)
  expect(await lookUpOutcome(await gateway(), id)).toMatchObject({ outcome: 'unknown' })

  // A gateway that learns of the promotion while it asks can tell.
  let view = before
  const learning = await gateway(() => view, { ...quick, outcomeWithinMs: 30_000 })
  const outcome = record(learning, 'nowhere-either', once())
  outcome.catch(() => undefined)
  await eventually(async () => (await waiting(old)).length >= 2)
  view = cluster.topology.current()
  await expect(outcome).rejects.toMatchObject({ code: 'transaction_aborted' })
  for (const run of ['nowhere', 'nowhere-either']) {
    expect(await runs(cluster.shard(payrollShard).primary, run)).toEqual([])
  }
})

test('B4: no barrier passes on the old primary, also when its commits are let wait for nobody', async () => {
  const barrier = () => withConnection(cluster.target(old), (admin) => passBarrier(admin, old.id, 500))
  await expect(barrier()).rejects.toMatchObject({ code: 'node_unavailable' })
  await nameFollowers(cluster, old, '')
  await expect(barrier()).rejects.toMatchObject({ code: 'node_unavailable' })
  await nameFollowers(cluster, old, 'ANY 1 (missing)')
})

test('HZ-X12: a resolver that goes through the old primary decides nothing, whatever is visible there', async () => {
  const stopped = gate('global decision row')
  const environment = await gateway(undefined, {}, stopped.onStep)
  await approve(environment, 'through-the-new-one')
  await stopped.reached
  await environment.pools.close()
  expect(await prepared()).toHaveLength(1)

  const stale = new Resolver({ environment: await gateway(() => before, quick), limits: eager })
  expect(await stale.resolveOnce(treasuryShard)).toMatchObject([{ resolution: { kind: 'left' } }])
  // ABORTED waits at the old primary for followers. Somebody cancels the wait, and it can be read.
  await eventually(async () => {
    await ask(old, `select pg_cancel_backend(pid) from pg_stat_activity where wait_event = 'SyncRep'`)
    return (await ask(old, `select from holdfast.transaction_record where outcome = 'ABORTED'`)).length > 0
  })
  expect(await stale.resolveOnce(treasuryShard)).toMatchObject([{ resolution: { kind: 'left' } }])
  expect(await prepared()).toHaveLength(1)

  await resolveAll(await gateway())
  expect(await holds('through-the-new-one')).toHaveLength(1)
  // The participant has heard of the new epoch: nothing is settled at the old one any more.
  const settle = ask(
    cluster.shard(treasuryShard).primary,
    `select holdfast.record_decision(gen_random_uuid(), 'ABORTED', null, $1, $2)`,
    [payrollShard, before.shards.get(payrollShard)?.epoch],
  )
  await expect(settle).rejects.toMatchObject({ sqlState: 'HF008' })
})

test('a home that is promoted behind the prepare: the outcome is an abort everywhere, and the key is free', async () => {
  const prepare = gate('global prepare acknowledged')
  let view = cluster.topology.current()
  const environment = await gateway(() => view, { ...quick, outcomeWithinMs: 30_000 }, prepare.onStep)
  const outcome = approve(environment, 'prepared', 'key-prepared', once())
  outcome.catch(() => undefined)
  await prepare.reached
  const { old: second } = await promoteWhileFrozen()
  prepare.release()
  await eventually(async () => (await waiting(second)).length > 0)
  view = cluster.topology.current()
  await expect(outcome).rejects.toMatchObject({ code: 'transaction_aborted' })
  await environment.background.drain()
  await resolveAll(await gateway())
  expect([await runs(cluster.shard(payrollShard).primary, 'prepared'), await holds('prepared')]).toEqual([[], []])

  const first = await approve(await gateway(), 'prepared', 'key-prepared')
  expect(first).toMatchObject({ replayed: false })
  expect(await approve(await gateway(), 'prepared', 'key-prepared')).toMatchObject({
    replayed: true,
    transactionId: first.transactionId,
  })
})

test('HZ-F2: after two promotions the first primary takes nothing: at its own epoch nobody answers, at a later one it refuses', async () => {
  expect(cluster.shard(payrollShard).epoch).toBe(3)
  await ambiguousId(record(await gateway(() => before, quick), 'after-two'))
  const now = cluster.topology.current()
  const mistaken = new Map(now.shards).set(payrollShard, { ...cluster.shard(payrollShard), primary: old })
  const wrong = await gateway(() => ({ ...now, shards: mistaken }), quick)
  await expect(record(wrong, 'at-the-wrong-server')).rejects.toMatchObject({ code: 'shard_fenced' })
  expect(await runs(cluster.shard(payrollShard).primary, 'after-two')).toEqual([])
})

test('C7: an old primary closes nothing of the histories behind its own: who asks it for `causal` is not shown less', async () => {
  // What nobody acknowledges is in progress, and would keep its closed timestamp where it is by itself.
  await eventually(async () => {
    await ask(old, `select pg_terminate_backend(pid) from pg_stat_activity where wait_event = 'SyncRep'`)
    return (await waiting(old)).length === 0
  })
  let beats = 0
  const keepers = new ClockKeepers(cluster)
  keepers.run('stale', {
    topology: { current: () => before, refresh: () => Promise.resolve(before) },
    onStep: (step) => Promise.resolve(void (step === 'closer move' && beats++)),
  })
  try {
    const { commitTimestamp } = await record(await gateway(), 'unknown-to-the-old')
    const read = async (what: string) =>
      BigInt((await ask<{ at: string }>(old, `select ${what}::text as at`))[0]?.at ?? 0)
    // Its clock goes on: by that alone it would close everything.
    await eventually(async () => (await read('(select last_value from holdfast.hlc)')) > commitTimestamp)
    const seen = beats
    await eventually(() => beats > seen + 50)
    expect(await read('(select closed_timestamp from holdfast.closed)')).toBeLessThan(commitTimestamp)
  } finally {
    await keepers.stop()
  }
})
