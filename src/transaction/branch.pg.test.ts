import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { both, gate, gatewayOf, insertHold, insertRun, newRun, request } from '../../test/support/approval.ts'
import { DatabaseShards, home, tenant, treasury } from '../../test/support/database-shards.ts'
import { present } from '../base/assert.ts'
import type { NodeId } from '../directory/topology.ts'
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

describe('a participant that only read', () => {
  const lookAt =
    (run: string, sql: string, values: unknown[] = []) =>
    async (tx: Tx) => {
      await tx.query('treasury', sql, values)
      await tx.query('payroll', insertRun, [tenant, run])
    }
  /** Whoever prepares passes this step. */
  const counting = async () => {
    const steps: string[] = []
    const environment = await gatewayOf(shards, { onStep: async (step) => void steps.push(step) })
    return { environment, prepares: () => steps.filter((step) => step === 'global prepare sent').length }
  }

  test('is not prepared and is in no record, and the stamp lies above what it read', async () => {
    const { environment, prepares } = await counting()
    await shards.rows(
      treasury,
      'select holdfast.observe(holdfast.wall_hlc() + (300::bigint << 16), holdfast.wall_hlc())',
    )
    const run = newRun()
    const {
      shards: touched,
      commitTimestamp,
      transactionId,
    } = await transact(environment, request(run), lookAt(run, 'select from holds'))
    expect(prepares()).toBe(0)
    expect(touched.map(({ shard, role, pending }) => [shard, role, pending])).toEqual([
      [home, 'home', undefined],
      [treasury, 'reader', undefined],
    ])
    const [clock] = await shards.rows<{ clock: string }>(treasury, 'select last_value::text as clock from holdfast.hlc')
    expect(commitTimestamp).toBeGreaterThan(BigInt(clock?.clock ?? 0) - (100n << 16n))
    await environment.background.drain()
    expect(await shards.rows(home, 'select participants from holdfast.commit_log where subject = $1', [run])).toEqual([
      { participants: [] },
    ])
    expect(
      await shards.rows(treasury, 'select from holdfast.branch where transaction_id = $1', [transactionId]),
    ).toEqual([])
  })

  test.each([
    ['a row lock', 'select from holds for update', 'read committed'],
    ['a lock that others rely on', 'select pg_advisory_xact_lock(7)', 'read committed'],
    ['a function that writes', "select add_hold('$run')", 'repeatable read'],
    ['a serializable read', 'select from holds', 'serializable'],
  ] as const)('is prepared with %s', async (_, sql, isolation) => {
    await shards.admin(treasury).script(`create or replace function add_hold(p_run text) returns void language sql as
      $$ insert into holds (tenant, run, cents) values ('${tenant}', p_run, 1) $$`)
    const { environment, prepares } = await counting()
    const run = newRun()
    await shards.rows(treasury, insertHold, [tenant, `${run}-other`])
    await transact(environment, request(run, { isolation }), lookAt(run, sql.replace('$run', run)))
    await environment.background.drain()
    expect(prepares()).toBe(1)
    expect(await both(shards, run)).toEqual([1, sql.startsWith('select add_hold') ? 1 : 0])
  })

  test('counts only where its server is still the authority afterwards: another primary by then refuses it', async () => {
    const environment = await gatewayOf(shards)
    const { primary } = present(shards.topology.current().shards.get(treasury), 'a shard of the test')
    const run = newRun()
    let attempts = 0
    const outcome = transact(environment, request(run), async (tx) => {
      attempts += 1
      await tx.query('treasury', 'select from holds')
      // Promoted behind the read, and told to this gateway.
      shards.replaceShard(treasury, { primary: { ...primary, id: `${treasury}.${attempts + 1}` as NodeId } })
      await tx.query('payroll', insertRun, [tenant, run])
    })
    await expect(outcome).rejects.toMatchObject({ code: 'node_unavailable', detail: { shard: treasury } })
    await environment.background.drain()
    expect(await both(shards, run)).toEqual([0, 0])
    shards.replaceShard(treasury, { primary })
  })

  test('keeps its shard’s word until the decision: a fence in between refuses it', async () => {
    const stop = gate('local stamp')
    const environment = await gatewayOf(shards, { onStep: stop.onStep })
    const run = newRun()
    const committed = transact(environment, request(run), lookAt(run, 'select from holds'))
    await stop.reached
    const open = "select from pg_stat_activity where state like 'idle in transaction%' and usename = 'holdfast_gateway'"
    expect(await shards.rows(treasury, `${open} and datname = current_database()`)).toHaveLength(1)
    stop.release()
    await committed
    await environment.background.drain()
    expect(await shards.rows(treasury, `${open} and datname = current_database()`)).toHaveLength(0)

    await shards.rows(treasury, "update holdfast.placement set version = version + 1 where domain = 'treasury'")
    const stale = { current: () => shards.directory, refresh: () => Promise.resolve(shards.directory) }
    const late = transact(await gatewayOf(shards, { directory: stale }), request('x'), lookAt('x', 'select from holds'))
    await expect(late).rejects.toMatchObject({ code: 'placement_stale', detail: { shard: treasury } })
    await shards.rows(treasury, "update holdfast.placement set version = version - 1 where domain = 'treasury'")
  })
})
