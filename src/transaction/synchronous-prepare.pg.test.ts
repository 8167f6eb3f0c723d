import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { acknowledgedBy } from '../../test/support/acknowledging-follower.ts'
import { approve, both, eager, insertHold, insertRun, newRun, request } from '../../test/support/approval.ts'
import { home, tenant, treasury } from '../../test/support/database-shards.ts'
import { eventually } from '../../test/support/eventually.ts'
import { missing, nobody, quick, tried, WaitingShards } from '../../test/support/waiting-shards.ts'
import { Connection } from '../postgres/connection.ts'
import type { TransactionEnvironment } from './environment.ts'
import { Resolver } from './resolver.ts'
import { transact } from './transaction.ts'

/** A vote whose wait for followers ended in any other way than by a follower is a no. */
let waiting: WaitingShards

beforeAll(async () => {
  waiting = await WaitingShards.open()
})

afterAll(() => waiting?.close())

beforeEach(() => waiting.followers(acknowledgedBy))
afterEach(() => waiting.shards.closeGateways())

async function untilSettled(): Promise<void> {
  const resolver = new Resolver({ environment: await waiting.gateway(), limits: eager })
  await eventually(async () => {
    await resolver.resolveOnce(treasury)
    return (await waiting.shards.prepared(treasury)).length === 0
  })
}

describe('a prepare that waits for followers', () => {
  test('HZ-S1: and is cancelled is a no, although the branch is there', async () => {
    const environment = await waiting.gateway({ limits: { ...quick, commitWithinMs: 20_000 } })
    const run = newRun()
    await waiting.followers(missing)
    const outcome = transact(environment, tried(run), approve(run))
    outcome.catch(() => undefined)
    await waiting.signalWaiter(treasury, 'pg_cancel_backend')
    await expect(outcome).rejects.toMatchObject({ code: 'transaction_aborted' })
    await waiting.followers(acknowledgedBy)
    await environment.background.drain()
    await untilSettled()
    expect(await both(waiting.shards, run)).toEqual([0, 0])
  })
})

describe('a prepare whose server loads other settings meanwhile', () => {
  test('T8: is a no, is run once more, and commits once', async () => {
    const environment = await waiting.gateway()
    const run = newRun()
    await waiting.followers(missing)
    let runs = 0
    const outcome = transact(environment, request(run), async (tx) => {
      runs += 1
      await tx.query('payroll', insertRun, [tenant, run])
      tx.batch('treasury', [[insertHold, [tenant, run]]])
    })
    outcome.catch(() => undefined)
    await eventually(async () => (await waiting.waiters()) === 1)
    // It is acknowledged by a follower, and by its answer nobody can tell that from a release without one.
    await waiting.followers(acknowledgedBy)
    await outcome
    expect(runs).toBe(2)
    await environment.background.drain()
    expect(await waiting.shards.prepared(treasury)).toEqual([])
    expect(await both(waiting.shards, run)).toEqual([1, 1])
  })
})

test('Q1, HZ-S1: who only read what no follower has gets no commit to rest on it, until a barrier passes', async () => {
  const environment = await waiting.gateway({ limits: quick })
  const [run, seen] = [newRun(), newRun()]
  await waiting.followers(missing)
  const writer = await Connection.connect(waiting.shards.target(treasury), 10_000)
  const written = writer.query(insertHold, [tenant, seen])
  await waiting.signalWaiter(treasury, 'pg_cancel_backend')
  expect((await written).warnings).toHaveLength(1)
  writer.release()
  const reading = (where: TransactionEnvironment) =>
    transact(where, tried(run), async (tx) => {
      const { rowCount } = await tx.query('treasury', 'select from holds where run = $1', [seen])
      await tx.query('payroll', insertRun, [tenant, run])
      return rowCount
    })
  const checking = transact(environment, request(run), async (tx) => {
    tx.batch('treasury', [['select from holds where run = $1', [seen], { rows: 1 }]])
    await tx.query('payroll', insertRun, [tenant, run])
  })
  await expect(checking).rejects.toMatchObject({ code: 'node_unavailable', detail: { shard: treasury } })
  await expect(reading(environment)).rejects.toMatchObject({ code: 'node_unavailable', detail: { shard: treasury } })
  expect(await waiting.shards.rows(home, 'select from runs where id = $1', [run])).toEqual([])
  await waiting.followers(acknowledgedBy)
  expect(await reading(await waiting.gateway())).toMatchObject({ value: 1 })
})

describe('a prepare while nobody is named', () => {
  test('HZ-S5: is refused, and no branch is left', async () => {
    const environment = await waiting.gateway()
    const run = newRun()
    await waiting.followers(nobody)
    await expect(transact(environment, tried(run), approve(run))).rejects.toMatchObject({
      code: 'durability_suspended',
    })
    expect(await waiting.shards.prepared(treasury)).toEqual([])
  })

  test('HZ-S5: that was released by names that are emptied is a no, although the branch is there', async () => {
    const environment = await waiting.gateway({ limits: { ...quick, commitWithinMs: 20_000 } })
    const run = newRun()
    await waiting.followers(missing)
    const outcome = transact(environment, tried(run), approve(run))
    outcome.catch(() => undefined)
    await eventually(async () => (await waiting.waiters()) === 1)
    await waiting.followers(nobody)
    await expect(outcome).rejects.toMatchObject({ code: 'transaction_aborted' })
    await waiting.followers(acknowledgedBy)
    await environment.background.drain()
    await untilSettled()
    expect(await both(waiting.shards, run)).toEqual([0, 0])
  })
})
