import { afterAll, beforeAll, expect, test } from 'vitest'
import { both, gatewayOf, insertHold, insertRun, newRun, request } from '../../test/support/approval.ts'
import { DatabaseShards, home, tenant, treasury } from '../../test/support/database-shards.ts'
import type { TransactionEnvironment } from './environment.ts'
import type { Tx } from './transaction.ts'
import { transact } from './transaction.ts'

let shards: DatabaseShards
let gateway: TransactionEnvironment

beforeAll(async () => {
  shards = await DatabaseShards.open()
  gateway = await gatewayOf(shards)
})

afterAll(async () => {
  await shards.close()
})

test.each([
  ['payroll', home],
  ['treasury', treasury],
])('a statement that runs too long is ended by its server: %s', async (domain, shard) => {
  const hurried = await gatewayOf(shards, { limits: { runWithinMs: 200 } })
  const run = newRun()
  const attempt = transact(hurried, request(run), async (tx) => {
    await tx.query('payroll', insertRun, [tenant, run])
    await tx.query(domain, 'select pg_sleep(600)')
  })
  await expect(attempt).rejects.toMatchObject({ code: 'statement_timeout', retry: 'safe', detail: { shard } })
  expect(await both(shards, run)).toEqual([0, 0])
})

test('what runs long behind the caller’s part is not ended by his time', async () => {
  const hurried = await gatewayOf(shards, { limits: { runWithinMs: 300 } })
  await shards.admin(home).script(`
    create function holdfast.linger() returns trigger language plpgsql as 'begin perform pg_sleep(0.6); return new; end';
    create trigger linger before insert on holdfast.commit_log for each row execute function holdfast.linger()`)
  const run = newRun()
  try {
    await transact(hurried, request(run), (tx) => tx.query('payroll', insertRun, [tenant, run]))
  } finally {
    await shards.admin(home).script('drop trigger linger on holdfast.commit_log; drop function holdfast.linger()')
  }
  expect(await both(shards, run)).toEqual([1, 0])
})

test.each(['payroll', 'treasury'])('savepoints hold what was done before them: %s', async (domain) => {
  const run = newRun()
  const insert = domain === 'payroll' ? insertRun : insertHold
  await transact(gateway, request(run), async (tx) => {
    await tx.query(domain, insert, [tenant, run])
    await tx.query(domain, 'savepoint before')
    await tx.query(domain, insert, [tenant, `${run}-undone`])
    await tx.query(domain, 'select 1 / 0').catch(() => undefined)
    await tx.query(domain, 'rollback to savepoint before')
  })
  await gateway.background.drain()
  expect(await both(shards, run)).toEqual(domain === 'payroll' ? [1, 0] : [0, 1])
  expect(await both(shards, `${run}-undone`)).toEqual([0, 0])
})

test('savepoints in a batch are refused, wherever it runs', async () => {
  for (const domain of ['payroll', 'treasury']) {
    const attempt = transact(gateway, request('x'), async (tx: Tx) => tx.batch(domain, [['savepoint a']]))
    await expect(attempt).rejects.toMatchObject({ code: 'statement_refused' })
  }
})

test('HZ-X6: what a function hid from the guard fails at the prepare, with the reason', async () => {
  const notify = `create function tell() returns void language plpgsql security definer as 'begin notify told; end'`
  await shards.admin(treasury).script(notify)
  const run = newRun()
  const attempt = transact(gateway, request(run), async (tx) => {
    await tx.query('payroll', insertRun, [tenant, run])
    tx.batch('treasury', [[insertHold, [tenant, run]], ['select tell()']])
  })
  await expect(attempt).rejects.toMatchObject({
    code: 'statement_refused',
    message: expect.stringContaining('cannot be prepared') as string,
    detail: { shard: treasury },
  })
  await gateway.background.drain()
  expect(await both(shards, run)).toEqual([0, 0])
  expect(await shards.prepared(treasury)).toEqual([])
})

test('T8: two that read what the other writes, on both shards: one is run again under serializable', async () => {
  const run = newRun()
  const attempts: number[] = []
  let waiting = 0
  let meet = () => {}
  const met = new Promise<void>((resolve) => (meet = resolve))
  /** Adds one hold where there is none yet, having seen at both. */
  const once = async (tx: Tx) => {
    attempts.push(1)
    const { rowCount } = await tx.query('treasury', 'select from holds where run like $1', [`${run}%`])
    waiting += 1
    if (waiting === 2) meet()
    await met
    if (rowCount === 0) tx.batch('treasury', [[insertHold, [tenant, `${run}-${attempts.length}`]]])
  }
  const both = [1, 2].map(() => transact(gateway, request(run, { isolation: 'serializable' }), once))
  await Promise.all(both)
  await gateway.background.drain()
  expect(attempts.length).toBeGreaterThan(2)
  expect(await shards.rows(treasury, 'select from holds where run like $1', [`${run}%`])).toHaveLength(1)
})
