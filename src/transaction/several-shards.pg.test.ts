import { afterAll, beforeAll, expect, test } from 'vitest'
import { codeOf, insertHoldOf, insertRunAs, newRun, request } from '../../test/support/approval.ts'
import {
  DatabaseShards,
  home,
  localTenant,
  otherTenant,
  scratch,
  tenant,
  treasury,
} from '../../test/support/database-shards.ts'
import type { TestGateway } from '../../test/support/database-shards.ts'
import { transact } from './transaction.ts'

/** A transaction of several shards, where nothing fails but its own statements. */
let shards: DatabaseShards
let gateway: TestGateway

beforeAll(async () => {
  shards = await DatabaseShards.open()
  gateway = await shards.gateway()
})

afterAll(() => shards?.close())

test('commits on both, and settles the branch after the reply', async () => {
  const run = newRun()
  const outcome = await transact(gateway.environment, request(run), async (tx) => {
    await tx.query('payroll', insertRunAs, [tenant, run, 'approved', 10])
    tx.batch('treasury', [[insertHoldOf, [tenant, run, 10], { rows: 1 }]])
  })
  expect(outcome.shards).toMatchObject([
    { shard: home, role: 'home' },
    {
      shard: treasury,
      role: 'participant',
      pending: { transactionId: outcome.transactionId, timestamp: outcome.commitTimestamp },
    },
  ])
  await gateway.environment.background.drain()
  expect(await shards.prepared(treasury)).toEqual([])
  expect(await shards.rows(treasury, 'select cents::int from holds where run = $1', [run])).toEqual([{ cents: 10 }])
  const [branch] = await shards.rows<{ p: string; c: string }>(
    treasury,
    `select b.prepare_timestamp::text as p, d.commit_timestamp::text as c from holdfast.branch b
     join holdfast.decision d using (transaction_id) where b.transaction_id = $1`,
    [outcome.transactionId],
  )
  expect(BigInt(branch?.p ?? 0)).toBeLessThan(outcome.commitTimestamp)
  expect(BigInt(branch?.c ?? 0)).toBe(outcome.commitTimestamp)
  const [record] = await shards.rows(
    home,
    'select outcome, participants from holdfast.transaction_record where transaction_id = $1',
    [outcome.transactionId],
  )
  expect(record).toEqual({ outcome: 'COMMITTED', participants: [treasury] })
})

test('reads a far shard when it is awaited, and rolls everything back together', async () => {
  const run = newRun()
  const attempt = transact(gateway.environment, request(run), async (tx) => {
    const { rows } = await tx.query('treasury', 'select count(*)::int as n from holds')
    expect(rows).toHaveLength(1)
    await tx.query('payroll', insertRunAs, [tenant, run, 'approved', 10])
    await tx.query('treasury', insertHoldOf, [tenant, run, 5_000])
  })
  await expect(attempt).rejects.toMatchObject({ code: 'constraint_violated', detail: { shard: treasury } })
  await gateway.environment.background.drain()
  expect(await shards.rows(home, 'select from runs where id = $1', [run])).toEqual([])
  expect(await shards.prepared(treasury)).toEqual([])
})

test('HZ-P2: a batch that fails makes the prepare answer ROLLBACK, which is a no', async () => {
  const run = newRun()
  const attempt = transact(gateway.environment, request(run), async (tx) => {
    await tx.query('payroll', insertRunAs, [tenant, run, 'approved', 10])
    tx.batch('treasury', [[insertHoldOf, [tenant, run, 5_000]]])
  })
  await expect(attempt).rejects.toMatchObject({ code: 'constraint_violated', detail: { shard: treasury } })
  await gateway.environment.background.drain()
  expect(await shards.rows(home, 'select from runs where id = $1', [run])).toEqual([])
  expect(await shards.prepared(treasury)).toEqual([])
})

test('an unexpected number of rows is refused, at home and far away', async () => {
  const run = newRun()
  const change = 'update runs set status = $1 where id = $2'
  const atHome = transact(gateway.environment, request(run), async (tx) => {
    tx.batch('payroll', [[change, ['approved', run], { rows: 1 }]])
  })
  expect(await codeOf(atHome)).toBe('transaction_refused')
  const far = transact(gateway.environment, request(run), async (tx) => {
    await tx.query('payroll', insertRunAs, [tenant, run, 'approved', 10])
    tx.batch('treasury', [['delete from holds where run = $1', [run], { rows: 1 }]])
  })
  await expect(far).rejects.toMatchObject({ code: 'transaction_refused', detail: { rows: 0, expected: 1 } })
  await gateway.environment.background.drain()
  expect(await shards.rows(home, 'select from runs where id = $1', [run])).toEqual([])
  expect(await shards.prepared(treasury)).toEqual([])
})

test('a value that cannot be sent stops everything before anything is sent', async () => {
  const run = newRun()
  const circular: Record<string, unknown> = {}
  circular['self'] = circular
  const attempt = transact(gateway.environment, request(run), async (tx) => {
    await tx.query('payroll', insertRunAs, [tenant, run, 'approved', 10])
    tx.batch('treasury', [['select $1::jsonb', [circular]]])
  })
  expect(await codeOf(attempt)).toBe('argument_invalid')
  expect(await shards.rows(home, 'select from runs where id = $1', [run])).toEqual([])
})

test('a tenant at home where its other domains are pinned has one shard', async () => {
  const run = newRun()
  const outcome = await transact(gateway.environment, request(run, { tenant: otherTenant }), async (tx) => {
    await tx.query('payroll', insertRunAs, [otherTenant, run, 'approved', 10])
    tx.batch('treasury', [[insertHoldOf, [otherTenant, run, 10]]])
  })
  expect(outcome.shards.map(({ shard }) => shard)).toEqual([treasury])
})

test('holds its record at home when only another shard is written', async () => {
  const run = newRun()
  const outcome = await transact(gateway.environment, request(run), async (tx) => {
    tx.batch('treasury', [[insertHoldOf, [tenant, run, 1]]])
  })
  await gateway.environment.background.drain()
  expect(
    await shards.rows(home, 'select placements from holdfast.commit_log where transaction_id = $1', [
      outcome.transactionId,
    ]),
  ).toEqual([{ placements: { payroll: 1 } }])
  expect(await shards.rows(treasury, 'select from holds where run = $1', [run])).toHaveLength(1)
})

test('HZ-X11: a shard of local durability takes no part, as participant or as home', async () => {
  const asParticipant = transact(gateway.environment, request('x'), async (tx) => {
    tx.batch('scratch', [['insert into notes values ($1, $2)', [tenant, 'x']]])
  })
  expect(await codeOf(asParticipant)).toBe('durability_insufficient')
  const asHome = transact(gateway.environment, request('x', { tenant: localTenant }), async (tx) => {
    tx.batch('treasury', [[insertHoldOf, [localTenant, 'x', 1]]])
  })
  expect(await codeOf(asHome)).toBe('durability_insufficient')
  const alone = await transact(gateway.environment, request('x', { tenant: localTenant }), async (tx) => {
    await tx.query('scratch', 'insert into notes values ($1, $2)', [localTenant, 'x'])
  })
  expect(alone.shards.map(({ shard }) => shard)).toEqual([scratch])
})
