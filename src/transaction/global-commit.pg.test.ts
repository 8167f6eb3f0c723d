import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import {
  approve,
  both,
  eager,
  gate,
  gatewayOf,
  insertHold,
  insertRun,
  newRun,
  request,
} from '../../test/support/approval.ts'
import type { GatewayOptions } from '../../test/support/database-shards.ts'
import { DatabaseShards, home, tenant, treasury } from '../../test/support/database-shards.ts'
import type { Metrics } from '../base/metrics.ts'
import { silentMetrics } from '../base/metrics.ts'
import { newTimeOrderedUuid } from '../base/random.ts'
import type { Epoch, TransactionId } from '../directory/topology.ts'
import { Connection } from '../postgres/connection.ts'
import { recordDecision } from './decision-store.ts'
import type { TransactionEnvironment } from './environment.ts'
import { formatGid } from './gid.ts'
import { explainInDoubt } from './in-doubt-explanation.ts'
import { listInDoubt, pushBranch } from './in-doubt.ts'
import { lookUpOutcome } from './outcome.ts'
import { Resolver } from './resolver.ts'
import { settleBranch } from './settlement.ts'
import type { Tx } from './transaction.ts'
import { transact } from './transaction.ts'

let shards: DatabaseShards

beforeEach(async () => {
  shards = await DatabaseShards.open()
})

afterEach(async () => {
  await shards.close()
})

const gateway = (options?: GatewayOptions): Promise<TransactionEnvironment> => gatewayOf(shards, options)

describe('transactions that wait for each other on two shards', () => {
  test('end by time, are run again, and both finish', async () => {
    const retried: unknown[] = []
    const count: Metrics['count'] = (name, labels) => {
      if (name === 'transaction_retried_total') retried.push(labels)
    }
    const environment = await gateway({ limits: { lockWithinMs: 300 }, metrics: { ...silentMetrics, count } })
    const run = newRun()
    await transact(environment, request(run), approve(run))
    await environment.background.drain()
    let waiting = 0
    let meet = () => {}
    const met = new Promise<void>((resolve) => (meet = resolve))
    /** Holds its first row until the other has its own; only at the first attempt of each. */
    const together = async () => {
      waiting += 1
      if (waiting === 2) meet()
      if (waiting <= 2) await met
    }
    const touch = { payroll: 'update runs set cents = cents + 1', treasury: 'update holds set cents = cents + 1' }
    const inOrder = (first: 'payroll' | 'treasury', second: 'payroll' | 'treasury') =>
      transact(environment, { ...request(run), subject: first }, async (tx) => {
        await tx.query(first, touch[first])
        await together()
        await tx.query(second, touch[second])
      })
    const ends = await Promise.all([inOrder('payroll', 'treasury'), inOrder('treasury', 'payroll')])
    expect(ends.map(({ replayed }) => replayed)).toEqual([false, false])
    await environment.background.drain()
    // Not by a deadline, which would cost the connection, nor by a server, which sees only its own half.
    expect(retried.length).toBeGreaterThan(0)
    expect(retried.filter((labels) => JSON.stringify(labels) !== '{"code":"lock_timeout"}')).toEqual([])
    const [hold] = await shards.rows<{ cents: string }>(treasury, 'select cents from holds where run = $1', [run])
    const [paid] = await shards.rows<{ cents: string }>(home, 'select cents from runs where id = $1', [run])
    const opening = Number(hold?.cents) - 2
    expect(opening).toBeGreaterThan(0)
    expect(Number(paid?.cents) - 2).toBe(opening)
    expect(await shards.prepared(treasury)).toEqual([])
  })
})

describe('the vote', () => {
  test('HZ-X5: a branch belongs to the gateway, and only that role settles it', async () => {
    const stop = gate('global record inserted')
    const environment = await gateway({ onStep: stop.onStep })
    const run = newRun()
    const outcome = transact(environment, request(run), approve(run))
    await stop.reached
    expect(
      await shards.rows(treasury, 'select owner from pg_prepared_xacts where database = current_database()'),
    ).toEqual([{ owner: 'holdfast_gateway' }])
    const [gid] = await shards.prepared(treasury)
    const app = await Connection.connect(shards.target(treasury, 'holdfast_app'), 5_000)
    await expect(app.query(`commit prepared '${gid}'`)).rejects.toMatchObject({ sqlState: '42501' })
    app.release()
    stop.release()
    await outcome
    await environment.background.drain()
    expect(await both(shards, run)).toEqual([1, 1])
  })

  test('HZ-X6: what cannot be prepared is a definite no, and nothing is left behind', async () => {
    const environment = await gateway()
    // A function of a migration may do what no statement may.
    await shards.admin(treasury).script(`
      create function sneak() returns void language plpgsql as $$ begin create temp table if not exists t (x int); end $$;
      create schema if not exists x;`)
    const run = newRun()
    const attempt = transact(environment, request(run), async (tx) => {
      await tx.query('payroll', insertRun, [tenant, run])
      tx.batch('treasury', [[insertHold, [tenant, run]], ['select sneak()']])
    })
    await expect(attempt).rejects.toMatchObject({ code: 'statement_refused', detail: { sqlState: '0A000' } })
    await environment.background.drain()
    expect(await both(shards, run)).toEqual([0, 0])
    expect(await shards.prepared(treasury)).toEqual([])
  })

  test('G4: a participant that is prepared when another part says no is rolled back', async () => {
    const environment = await gateway()
    const run = newRun()
    const attempt = transact(environment, request(run), async (tx) => {
      tx.batch('payroll', [[insertRun, [tenant, run]], ['select 1 / 0']])
      tx.batch('treasury', [[insertHold, [tenant, run]]])
    })
    await expect(attempt).rejects.toMatchObject({ code: 'statement_failed', detail: { shard: home } })
    await environment.background.drain()
    expect(await both(shards, run)).toEqual([0, 0])
    expect(await shards.prepared(treasury)).toEqual([])
  })
})

describe('presumed abort', () => {
  test('HZ-X12: whoever inserts the record first decides; a coordinator that comes late is refused', async () => {
    const stop = gate('global record inserted')
    const environment = await gateway({ onStep: stop.onStep })
    const run = newRun()
    const once = { transactionId: newTimeOrderedUuid() as TransactionId }
    const late = transact(environment, request(run, once), approve(run))
    late.catch(() => undefined)
    await stop.reached
    const other = await gateway()
    const resolver = new Resolver({ environment: other, limits: eager })
    const [resolved] = await resolver.resolveOnce(treasury)
    expect(resolved?.resolution).toEqual({ kind: 'settled', outcome: 'ABORTED' })
    stop.release()
    await expect(late).rejects.toMatchObject({ code: 'transaction_aborted' })
    await environment.background.drain()
    expect(await both(shards, run)).toEqual([0, 0])
    const [record] = await shards.rows<{ id: TransactionId }>(
      home,
      'select transaction_id as id from holdfast.transaction_record',
    )
    expect(record).toBeDefined()
    expect(await lookUpOutcome(other, record?.id ?? ('' as TransactionId))).toMatchObject({ outcome: 'aborted', home })
  })

  test('HZ-X12: a settlement from an older epoch of home than the participant has seen is refused', async () => {
    const stop = gate('global decision row')
    const { environment, kill } = await shards.gateway({ onStep: stop.onStep })
    const run = newRun()
    const { transactionId, commitTimestamp } = await transact(environment, request(run), approve(run))
    await stop.reached
    await kill()
    await shards.rows(treasury, 'insert into holdfast.peer (shard, epoch) values ($1, 5)', [home])
    const other = await gateway()
    const branch = { home, transactionId, participant: treasury }
    const decision = { outcome: 'ABORTED' } as const
    const refused = await settleBranch(other, { branch, homeEpoch: 4 as Epoch, decision })
    expect(refused).toMatchObject({ kind: 'failed', cause: { sqlState: 'HF008' } })
    expect(await shards.prepared(treasury)).toHaveLength(1)
    const settled = await settleBranch(other, {
      branch,
      homeEpoch: 5 as Epoch,
      decision: { outcome: 'COMMITTED', commitTimestamp },
    })
    expect(settled).toEqual({ kind: 'settled' })
    expect(await settleBranch(other, { branch, homeEpoch: 5 as Epoch, decision })).toMatchObject({
      kind: 'failed',
      cause: { sqlState: 'HF010' },
    })
  })

  test('a branch is left while it may be its coordinator’s, and explained', async () => {
    const stop = gate('global record inserted')
    const environment = await gateway({ onStep: stop.onStep })
    const run = newRun()
    const outcome = transact(environment, request(run), approve(run))
    await stop.reached
    const patient = new Resolver({ environment, limits: { ...eager, abortAfterMs: 60_000 } })
    expect(await patient.resolveOnce(treasury)).toMatchObject([{ resolution: { kind: 'left' } }])
    expect(await explainInDoubt(environment, { settleAfterMs: 0, abortAfterMs: 60_000 })).toMatchObject([
      { home, participant: treasury, verdict: 'wait' },
    ])
    expect(await explainInDoubt(environment, eager)).toMatchObject([{ verdict: 'roll back' }])
    stop.release()
    const { transactionId } = await outcome
    expect(await lookUpOutcome(environment, transactionId)).toMatchObject({
      outcome: 'committed',
      home,
      participants: [treasury],
    })
    expect(await lookUpOutcome(environment, newTimeOrderedUuid() as TransactionId)).toMatchObject({
      outcome: 'unknown',
    })
  })

  test('a branch whose record could have been collected stops for a person', async () => {
    const stop = gate('global record inserted')
    const { environment, kill } = await shards.gateway({ onStep: stop.onStep })
    const run = newRun()
    transact(environment, request(run), approve(run)).catch(() => undefined)
    await stop.reached
    await kill()
    await shards.rows(
      home,
      'update holdfast.shard set collected_through_ms = (extract(epoch from now()) * 1000)::bigint + 60000',
    )
    const other = await gateway()
    const stuck: string[] = []
    const resolver = new Resolver({ environment: other, limits: eager, onStuck: (_, why) => stuck.push(why) })
    expect(await resolver.resolveOnce(treasury)).toMatchObject([{ resolution: { kind: 'needs person' } }])
    expect(stuck).toHaveLength(1)
    expect(await shards.prepared(treasury)).toHaveLength(1)
  })

  test('branches of other fleets and prepared transactions of others are not touched', async () => {
    const environment = await gateway()
    const admin = shards.admin(treasury)
    const foreign = [
      'somebody else',
      formatGid('other', { home, transactionId: newTimeOrderedUuid() as TransactionId, participant: treasury }),
    ]
    for (const gid of foreign) {
      await admin.query('begin')
      await admin.query(`prepare transaction '${gid}'`)
    }
    expect(await listInDoubt(environment, treasury)).toEqual([])
    await new Resolver({ environment, limits: eager }).resolveOnce(treasury)
    expect((await shards.prepared(treasury)).toSorted()).toEqual(foreign.toSorted())
  })
})

describe('a reply before the branch is settled', () => {
  test('HZ-X3: the far primary does not show it yet; whoever carries the pending branch has it settled first', async () => {
    const stop = gate('global decision row')
    const slow = await gateway({ onStep: stop.onStep })
    const run = newRun()
    const { transactionId } = await transact(slow, request(run), approve(run))
    await stop.reached
    const environment = await gateway()
    const countHolds = async (tx: Tx) =>
      (await tx.query('treasury', 'select 1 from holds where run = $1', [run])).rowCount
    expect((await transact(environment, request('look'), countHolds)).value).toBe(0)
    const pending = [{ shard: treasury, transactionId }]
    expect((await transact(environment, request('look', { pending }), countHolds)).value).toBe(1)
    stop.release()
    await slow.background.drain()
    expect(await pushBranch(environment, treasury, transactionId)).toEqual({ kind: 'settled', outcome: 'COMMITTED' })
    expect(await pushBranch(environment, treasury, newTimeOrderedUuid() as TransactionId)).toEqual({ kind: 'absent' })
  })
})

describe('settling in one flight', () => {
  /** A decided transaction whose coordinator died before it told its participant. */
  async function leaveDecided(run: string) {
    const stop = gate('global decision row')
    const { environment, kill } = await shards.gateway({ onStep: stop.onStep })
    const { transactionId, commitTimestamp } = await transact(environment, request(run), approve(run))
    await stop.reached
    await kill()
    const other = await gateway()
    const homeEpoch = 1 as Epoch
    const decision = { outcome: 'COMMITTED', commitTimestamp } as const
    const branch = { home, transactionId, participant: treasury }
    const settle = () => settleBranch(other, { branch, homeEpoch, decision })
    const record = () => shards.admin(treasury).flight([recordDecision(transactionId, decision, home, homeEpoch)])
    const decisions = () =>
      shards.rows(treasury, 'select outcome from holdfast.decision where transaction_id = $1', [transactionId])
    return { commitTimestamp, settle, record, decisions }
  }

  for (const [what, needed] of [
    ['S1: behind a clock that did not pass its timestamp', 'holdfast.move_clock(bigint, bigint)'],
    ['S2: behind a decision that was refused', 'holdfast.require_home_epoch(text, integer)'],
  ] as const) {
    test(`${what}, no branch is committed`, async () => {
      const run = newRun()
      const { settle, decisions, commitTimestamp } = await leaveDecided(run)
      await shards.rows(treasury, `alter function ${needed} rename to away`)
      expect(await settle()).toMatchObject({ kind: 'failed', cause: { sqlState: '42883' } })
      expect(await both(shards, run)).toEqual([1, 0])
      expect([await shards.prepared(treasury), await decisions()]).toMatchObject([{ length: 1 }, []])
      await shards.rows(
        treasury,
        `alter function ${needed.replace(/\w+\(/, 'away(')} rename to ${/(\w+)\(/.exec(needed)?.[1]}`,
      )
      expect(await settle()).toEqual({ kind: 'settled' })
      expect(await both(shards, run)).toEqual([1, 1])
      expect(await decisions()).toEqual([{ outcome: 'COMMITTED' }])
      const [clock] = await shards.rows<{ clock: string }>(treasury, 'select last_value as clock from holdfast.hlc')
      expect(BigInt(clock?.clock ?? 0)).toBeGreaterThanOrEqual(commitTimestamp)
    })
  }

  test('a decision whose settlement did not arrive is settled by whoever comes next', async () => {
    const run = newRun()
    const { settle, record, decisions, commitTimestamp } = await leaveDecided(run)
    await shards.rows(treasury, 'select holdfast.observe_decided($1, $1)', [commitTimestamp])
    await record()
    expect(await both(shards, run)).toEqual([1, 0])
    expect(await settle()).toEqual({ kind: 'settled' })
    expect(await decisions()).toEqual([{ outcome: 'COMMITTED' }])
    expect(await both(shards, run)).toEqual([1, 1])
  })
})
