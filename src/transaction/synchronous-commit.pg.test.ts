import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import type { Running } from '../../test/support/archive.ts'
import { acknowledgedBy } from '../../test/support/acknowledging-follower.ts'
import { approve, eager, insertRun, newRun, request } from '../../test/support/approval.ts'
import { home, tenant, treasury } from '../../test/support/database-shards.ts'
import { eventually } from '../../test/support/eventually.ts'
import { missing, nobody, quick, strangers, tried, WaitingShards } from '../../test/support/waiting-shards.ts'
import { systemClock } from '../base/clock.ts'
import { silentMetrics } from '../base/metrics.ts'
import type { TransactionId } from '../directory/topology.ts'
import { Connection } from '../postgres/connection.ts'
import type { TransactionEnvironment } from './environment.ts'
import { parseGid } from './gid.ts'
import { lookUpOutcome } from './outcome.ts'
import { Resolver } from './resolver.ts'
import type { TransactRequest } from './transaction.ts'
import { transact } from './transaction.ts'

/** What is cancelled, terminated, released or late while it waits for followers is unknown, and nobody is told otherwise. */
let waiting: WaitingShards

beforeAll(async () => {
  waiting = await WaitingShards.open()
})

afterAll(() => waiting?.close())

beforeEach(() => waiting.followers(acknowledgedBy))
afterEach(() => waiting.shards.closeGateways())

const record = (environment: TransactionEnvironment, run: string) =>
  transact(environment, request(run), (tx) => tx.query('payroll', insertRun, [tenant, run]))

async function ambiguousId(promise: Promise<unknown>): Promise<TransactionId> {
  const error: unknown = await promise.then(
    () => 'it was acknowledged',
    (reason: unknown) => reason,
  )
  expect(error).toMatchObject({ code: 'outcome_ambiguous', retry: 'unknown' })
  return (error as { detail: { transactionId: TransactionId } }).detail.transactionId
}

describe('a commit that waits for followers', () => {
  for (const signal of ['pg_cancel_backend', 'pg_terminate_backend'] as const) {
    test(`HZ-S1: and is answered after ${signal} is unknown, until a barrier passes`, async () => {
      const environment = await waiting.gateway({ limits: quick })
      const run = newRun()
      await waiting.followers(missing)
      const outcome = record(environment, run)
      outcome.catch(() => undefined)
      await waiting.signalWaiter(home, signal)
      const id = await ambiguousId(outcome)
      // It is visible here, and on no follower: what is read does not count.
      expect(await waiting.shards.rows(home, 'select from runs where id = $1', [run])).toHaveLength(1)
      await expect(lookUpOutcome(environment, id)).rejects.toMatchObject({ code: 'node_unavailable' })
      await waiting.followers(acknowledgedBy)
      expect(await lookUpOutcome(await waiting.gateway(), id)).toMatchObject({ outcome: 'committed', subject: run })
    })
  }

  test('HZ-S1: and is told as committed when the followers come while it is asked for', async () => {
    const environment = await waiting.gateway({ limits: { ...quick, outcomeWithinMs: 20_000 } })
    const run = newRun()
    await waiting.followers(missing)
    const outcome = record(environment, run)
    await waiting.signalWaiter(home, 'pg_cancel_backend')
    await waiting.followers(acknowledgedBy)
    expect(await outcome).toMatchObject({ replayed: false, shards: [{ shard: home }] })
  })

  test('HZ-S3: past its deadline is unknown, is not cancelled, and goes through later', async () => {
    const environment = await waiting.gateway({ limits: quick })
    const run = newRun()
    await waiting.followers(missing)
    const id = await ambiguousId(record(environment, run))
    expect(await waiting.waiters()).toBeGreaterThan(0)
    expect(await waiting.shards.rows(home, 'select from runs where id = $1', [run])).toHaveLength(0)
    await waiting.followers(acknowledgedBy)
    await eventually(
      async () => (await waiting.shards.rows(home, 'select from runs where id = $1', [run])).length === 1,
    )
    expect(await lookUpOutcome(await waiting.gateway(), id)).toMatchObject({ outcome: 'committed' })
  })

  /** Its commit has arrived and waits for another's row, past its deadline; `end` ends its backend. */
  async function askedFor(toRequest: (run: string) => TransactRequest) {
    let asked = 0
    const environment = await waiting.gateway({
      limits: { ...quick, outcomeWithinMs: 20_000 },
      metrics: { ...silentMetrics, count: (name) => (asked += name === 'outcome_asked_total' ? 1 : 0) },
    })
    const run = newRun()
    const other = await Connection.connect(waiting.shards.target(home), 10_000)
    await other.flight([{ text: 'begin' }, { text: insertRun, values: [tenant, run] }])
    let runs = 0
    const outcome = transact(environment, toRequest(run), async (tx) => {
      runs += 1
      tx.batch('payroll', [[insertRun, [tenant, run]]])
    })
    outcome.catch(() => undefined)
    await eventually(() => asked === 1)
    const [row] = await waiting.shards.rows<{ pid: number }>(
      home,
      `select pid from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()`,
    )
    const end = () => waiting.shards.rows(home, 'select pg_terminate_backend($1)', [row?.pid])
    return { run, other, outcome, end, runs: () => runs }
  }

  test('O3: past its deadline is aborted only once its backend is gone and nothing is there', async () => {
    const { run, other, outcome, end } = await askedFor(tried)
    // Nobody may call it aborted yet.
    expect(await Promise.race([outcome.catch(() => 'told'), systemClock.sleep(300).then(() => 'asking')])).toBe(
      'asking',
    )
    await end()
    await expect(outcome).rejects.toMatchObject({ code: 'transaction_aborted' })
    await other.query('rollback')
    other.release()
    expect(await waiting.shards.rows(home, 'select from runs where id = $1', [run])).toHaveLength(0)
  })

  test('T8: past its deadline is run once more when the abort is proven, and commits once', async () => {
    const { run, other, outcome, end, runs } = await askedFor(request)
    await end()
    await other.query('rollback')
    other.release()
    expect(await outcome).toMatchObject({ replayed: false })
    expect(runs()).toBe(2)
    expect(await waiting.shards.rows(home, 'select from runs where id = $1', [run])).toHaveLength(1)
    expect(await waiting.shards.rows(home, 'select from holdfast.commit_log where subject = $1', [run])).toHaveLength(1)
  })

  test('HZ-S5: and is released by names that are emptied is unknown, until they are back and a barrier passes', async () => {
    const environment = await waiting.gateway({ limits: quick })
    const run = newRun()
    await waiting.followers(missing)
    const outcome = record(environment, run)
    outcome.catch(() => undefined)
    await eventually(async () => (await waiting.waiters()) === 1)
    await waiting.followers(nobody)
    const id = await ambiguousId(outcome)
    expect(await waiting.shards.rows(home, 'select from runs where id = $1', [run])).toHaveLength(1)
    await expect(lookUpOutcome(environment, id)).rejects.toMatchObject({ code: 'node_unavailable' })
    await waiting.followers(acknowledgedBy)
    expect(await lookUpOutcome(await waiting.gateway(), id)).toMatchObject({ outcome: 'committed', subject: run })
  })

  test('HZ-S5: is refused where it would wait for nobody, and nothing is written', async () => {
    const environment = await waiting.gateway()
    const run = newRun()
    await waiting.followers(nobody)
    await expect(record(environment, run)).rejects.toMatchObject({ code: 'durability_suspended' })
    await waiting.followers(acknowledgedBy)
    expect(await waiting.shards.rows(home, 'select from runs where id = $1', [run])).toEqual([])
    await record(environment, run)
  })

  describe('while somebody who is no follower would acknowledge it', () => {
    let stranger: Running

    beforeEach(async () => {
      stranger = waiting.startStranger()
      await waiting.stopFollower()
    })

    afterEach(async () => {
      waiting.startFollower()
      await waiting.putNamesBack()
      await waiting.followers(acknowledgedBy)
      await stranger.stop()
    })

    test('HZ-S5: is refused where names were changed to his, and nothing is written', async () => {
      const environment = await waiting.gateway()
      const run = newRun()
      await waiting.changeNames(strangers)
      await expect(record(environment, run)).rejects.toMatchObject({
        code: 'durability_suspended',
        message: expect.stringMatching(/would wait for ANY 1 \(stranger\), which are not its followers/) as string,
      })
      expect(await waiting.shards.rows(home, 'select from runs where id = $1', [run])).toEqual([])
    })

    test('HZ-S5: is unknown where names are changed to his while it waits', async () => {
      const environment = await waiting.gateway({ limits: quick })
      const run = newRun()
      const outcome = record(environment, run)
      outcome.catch(() => undefined)
      await eventually(async () => (await waiting.waiters()) === 1)
      await waiting.changeNames(strangers)
      const id = await ambiguousId(outcome)
      await expect(lookUpOutcome(environment, id)).rejects.toMatchObject({ code: 'node_unavailable' })
      waiting.startFollower()
      await waiting.putNamesBack()
      await waiting.followers(acknowledgedBy)
      expect(await lookUpOutcome(await waiting.gateway(), id)).toMatchObject({ outcome: 'committed', subject: run })
    })

    test('HZ-S5: is refused where names were put back, as long as his sender has not loaded them', async () => {
      const environment = await waiting.gateway()
      const run = newRun()
      await waiting.changeNames(strangers)
      await expect(record(environment, run)).rejects.toMatchObject({ code: 'durability_suspended' })
      await waiting.putNamesBack()
      await expect(record(environment, run)).rejects.toMatchObject({
        code: 'durability_suspended',
        message: expect.stringMatching(/stranger, whose sender has not loaded/) as string,
      })
      expect(await waiting.shards.rows(home, 'select from runs where id = $1', [run])).toEqual([])
      waiting.startFollower()
      await waiting.followers(acknowledgedBy)
      await record(environment, run)
    })
  })

  test('HZ-S5: waits whatever synchronous_commit the role or the database has', async () => {
    const environment = await waiting.gateway({ limits: quick })
    await waiting.shards.rows(home, 'alter role holdfast_gateway set synchronous_commit = off')
    await waiting.shards.rows(home, 'alter role holdfast_app set synchronous_commit = off')
    try {
      const other = await waiting.gateway({ limits: quick })
      const run = newRun()
      await waiting.followers(missing)
      await ambiguousId(record(other, run))
      const attempt = transact(environment, request(run), (tx) =>
        tx.query('payroll', 'set local synchronous_commit = off'),
      )
      await expect(attempt).rejects.toMatchObject({ code: 'statement_refused' })
    } finally {
      await waiting.followers(acknowledgedBy)
      await waiting.shards.rows(home, 'alter role holdfast_gateway reset synchronous_commit')
      await waiting.shards.rows(home, 'alter role holdfast_app reset synchronous_commit')
    }
  })
})

describe('a decision that waits for followers', () => {
  test('HZ-X1: settles no branch until a barrier has passed at home', async () => {
    const environment = await waiting.gateway({ limits: quick })
    const run = newRun()
    let reach = () => {}
    const reached = new Promise<void>((resolve) => {
      reach = resolve
    })
    const own = await waiting.gateway({
      limits: { ...quick, commitWithinMs: 20_000 },
      onStep: async (step) => {
        if (step !== 'global record inserted') return
        await waiting.followers(missing)
        reach()
      },
    })
    const outcome = transact(own, request(run), approve(run))
    outcome.catch(() => undefined)
    await reached
    // R4: home's part is seen open until its commit is seen.
    await eventually(async () => (await waiting.waiters()) === 1)
    const [gid = ''] = await waiting.shards.prepared(treasury)
    const seenAtHome = `select holdfast.home_is_open($1) as open,
      exists(select from holdfast.transaction_record where transaction_id = $1) as decided`
    const idOfBranch = parseGid(gid, 'test', treasury)?.transactionId
    expect(await waiting.shards.rows(home, seenAtHome, [idOfBranch])).toEqual([{ open: true, decided: false }])
    await waiting.signalWaiter(home, 'pg_cancel_backend')
    const id = await ambiguousId(outcome)
    expect(id).toBe(idOfBranch)
    await eventually(
      async () => (await waiting.shards.rows<{ open: boolean }>(home, seenAtHome, [id]))[0]?.open === false,
    )
    // The record is visible at home. A resolver reads it, and does not act on it.
    expect(
      await waiting.shards.rows(home, 'select outcome from holdfast.transaction_record where transaction_id = $1', [
        id,
      ]),
    ).toEqual([{ outcome: 'COMMITTED' }])
    const resolver = new Resolver({
      environment,
      limits: eager,
    })
    expect(await resolver.resolveOnce(treasury)).toMatchObject([{ resolution: { kind: 'left' } }])
    expect(await waiting.shards.prepared(treasury)).toHaveLength(1)
    await waiting.followers(acknowledgedBy)
    const patient = new Resolver({ environment: await waiting.gateway(), limits: eager })
    expect(await patient.resolveOnce(treasury)).toMatchObject([
      { resolution: { kind: 'settled', outcome: 'COMMITTED' } },
    ])
    expect(await waiting.shards.rows(treasury, 'select from holds where run = $1', [run])).toHaveLength(1)
  })
})
