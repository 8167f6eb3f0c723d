import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { approve, both, gatewayOf, insertHold, insertRun, newRun, request } from '../../test/support/approval.ts'
import { DatabaseShards, home, otherTenant, tenant, treasury } from '../../test/support/database-shards.ts'
import { silentMetrics } from '../base/metrics.ts'
import { newTimeOrderedUuid } from '../base/random.ts'
import { present } from '../base/assert.ts'
import type { TransactionId } from '../directory/topology.ts'
import { Connection } from '../postgres/connection.ts'
import type { TransactionEnvironment } from './environment.ts'
import { ShardTransaction } from './shard-transaction.ts'
import { concludeCaller } from './transaction-store.ts'
import type { Isolation } from './transaction.ts'
import { transact } from './transaction.ts'

let shards: DatabaseShards
let environment: TransactionEnvironment

beforeAll(async () => {
  shards = await DatabaseShards.open()
  environment = await gatewayOf(shards)
  await shards.rows(home, insertRun, [otherTenant, 'theirs'])
  await shards.rows(home, insertRun, [tenant, 'ours'])
})

afterAll(async () => {
  await shards.close()
})

const send = (sql: string) =>
  transact(environment, request(newRun()), async (tx) => (await tx.query('payroll', sql)).rowCount)
const theirs = `(values ('${otherTenant}', 'theirs')) v (tenant, id) on r.tenant = v.tenant and r.id = v.id`

describe('the rows of another tenant', () => {
  test.each([
    ['an update', `update runs set status = 'taken' where id = 'theirs'`],
    ['a delete', `delete from runs where id = 'theirs'`],
    ['a row lock', `select from runs where id = 'theirs' for update`],
    ['a merge that finds nothing', `merge into runs r using ${theirs} when matched then delete`],
  ])('are not there for %s', async (_, sql) => {
    expect((await send(sql)).value).toBe(0)
  })

  test.each([
    [
      'on conflict do update',
      `insert into runs values ('${otherTenant}', 'theirs', 'x', 1) on conflict (tenant, id) do update set status = 'taken'`,
    ],
    [
      'on conflict do nothing',
      `insert into runs values ('${otherTenant}', 'theirs', 'x', 1) on conflict (tenant, id) do nothing`,
    ],
    ['an update that gives a row away', `update runs set tenant = '${otherTenant}' where id = 'ours'`],
    [
      'a merge that inserts',
      `merge into runs r using ${theirs} when matched then do nothing
       when not matched then insert values (v.tenant, v.id, 'x', 1)`,
    ],
    ['a claim of a key', `select holdfast.claim('${otherTenant}', gen_random_uuid(), 'k', '\\x00')`],
  ])('are refused to %s', async (_, sql) => {
    await expect(send(sql)).rejects.toMatchObject({ code: 'statement_failed', detail: { sqlState: '42501' } })
  })

  test('are as they were', async () => {
    expect(await shards.rows(home, 'select tenant, id, status from runs order by tenant')).toEqual([
      { tenant, id: 'ours', status: 'approved' },
      { tenant: otherTenant, id: 'theirs', status: 'approved' },
    ])
  })
})

test('what lies outside tables, or outlives a transaction, is not the application’s', async () => {
  const app = await Connection.connect(shards.target(home, 'holdfast_app'), 5_000)
  try {
    for (const sql of [
      `select lo_from_bytea(0, 'salaries')`,
      'select lo_create(0)',
      'select lo_get(1)',
      'select statement from pg_prepared_statements',
      'select pg_advisory_lock(1)',
      `select pg_try_advisory_lock(hashtextextended('holdfast.clock-keeper', 0))`,
    ])
      await expect(app.query(sql), sql).rejects.toMatchObject({ sqlState: '42501' })
  } finally {
    app.release()
  }
})

const hlcKey = `hashtextextended('holdfast.hlc', 0)`

test.each([
  ['taken', `select pg_advisory_xact_lock(${hlcKey})`],
  ['shared', `select pg_advisory_xact_lock_shared(${hlcKey})`],
  ['tried for', `select pg_try_advisory_xact_lock(${hlcKey})`],
  ['tried for, shared', `select pg_try_advisory_xact_lock_shared(${hlcKey})`],
])('the locks of one key, by which a shard moves its clock, are not the application’s: %s', async (_, sql) => {
  await expect(send(sql)).rejects.toMatchObject({ code: 'statement_failed', detail: { sqlState: '42501' } })
})

test('the locks of two keys are', async () => {
  expect((await send('select pg_advisory_xact_lock(1, 2), pg_try_advisory_xact_lock_shared(3, 4)')).value).toBe(1)
})

describe('T2: behind a BEGIN that failed, where everything would autocommit as the gateway,', () => {
  const broken = () =>
    new ShardTransaction(environment, {
      shard: present(shards.topology.current().shards.get(home), 'a shard of this fleet'),
      tenant,
      transactionId: newTimeOrderedUuid() as TransactionId,
      isolation: 'nonsense' as string as Isolation,
      home: null,
    })
  // The gateway's role may write this one.
  const text = `insert into holdfast.attempt (tenant, action, subject, actor, code, reason) values ('t', 'a', 's', 'x', 'c', 'r')`
  const written = () => shards.rows(home, `select from holdfast.attempt where subject = 's'`)

  test('no awaited statement is run, sent at once or later', async () => {
    const part = broken()
    const answers = await Promise.allSettled([part.query({ text }), part.query({ text })])
    expect(answers.map(({ status }) => status)).toEqual(['rejected', 'rejected'])
    await expect(part.query({ text })).rejects.toMatchObject({ detail: { sqlState: '42601' } })
    await part.rollBack()
    expect(await written()).toEqual([])
  })

  test('no statement of a batch is run', async () => {
    const part = broken()
    const { outcomes } = await part.last([{ text }, { text }, { text }, ...concludeCaller], 5_000, async () => {})
    part.release()
    expect(outcomes.every(({ ok }) => !ok)).toBe(true)
    expect(await written()).toEqual([])
  })
})

test('HZ-S5: a time zone of the caller’s own is no change of settings', async () => {
  const asked: string[] = []
  const metrics = { ...silentMetrics, count: (name: string) => void asked.push(name) }
  const gateway = await gatewayOf(shards, { metrics })
  const zone = `set local timezone = 'Asia/Tokyo'`
  const [local, global] = [newRun(), newRun()]
  await transact(gateway, request(local), async (tx) => {
    await tx.query('payroll', zone)
    await tx.query('payroll', insertRun, [tenant, local])
  })
  await transact(gateway, request(global), async (tx) => {
    await approve(global)(tx)
    tx.batch('treasury', [[zone], [insertHold, [tenant, `${global}-2`]]])
  })
  await gateway.background.drain()
  expect(asked).not.toContain('outcome_asked_total')
  expect(await both(shards, global)).toEqual([1, 1])
  expect(await shards.prepared(treasury)).toEqual([])
})

test('rows of another tenant are neither seen nor written', async () => {
  const run = newRun()
  await shards.rows(home, insertRun, [otherTenant, run])
  const seen = await transact(
    environment,
    request('x'),
    async (tx) => (await tx.query('payroll', 'select 1 from runs where id = $1', [run])).rowCount,
  )
  expect(seen.value).toBe(0)
  const written = transact(environment, request('x'), (tx) => tx.query('payroll', insertRun, [otherTenant, run]))
  await expect(written).rejects.toMatchObject({ code: 'statement_failed', detail: { sqlState: '42501' } })
})

test('the application role has no way to a setting or to a text that runs as SQL', async () => {
  const app = await Connection.connect(shards.target(home, 'holdfast_app'), 5_000)
  try {
    const refused = [
      `select set_config('role', 'none', true)`,
      `select query_to_xml('select 1', true, true, '')`,
      `update pg_settings set setting = 'off' where name = 'synchronous_commit'`,
      `do $$ begin perform 1; end $$`,
      `select pg_notify('a', 'b')`,
    ]
    for (const sql of refused) await expect(app.query(sql), sql).rejects.toMatchObject({ sqlState: '42501' })
  } finally {
    app.release()
  }
})

test('the guard holds whom row security does not: what runs as the owner needs an opening too', async () => {
  await shards.admin(home).script(`create function as_owner(p_run text) returns void language sql security definer
    set search_path = public, pg_temp as $$ insert into runs (tenant, id, status, cents) values ('${tenant}', p_run, 'draft', 1) $$;
    alter function as_owner(text) owner to holdfast_owner`)
  const app = await Connection.connect(shards.target(home, 'holdfast_app'), 5_000)
  const run = newRun()
  try {
    await expect(app.query('select as_owner($1)', [run])).rejects.toMatchObject({ sqlState: 'HF005' })
  } finally {
    app.release()
  }
  await transact(environment, request(run), (tx) => tx.query('payroll', 'select as_owner($1)', [run]))
  expect(await shards.rows(home, 'select from runs where id = $1', [run])).toHaveLength(1)
})

test('reference data is read at home', async () => {
  const outcome = await transact(
    environment,
    request('x'),
    async (tx) => (await tx.query<{ rate: number }>('tax', 'select rate from tax')).rows,
  )
  expect(outcome.value).toEqual([{ rate: 24 }])
  expect(outcome.shards.map(({ shard }) => shard)).toEqual([home])
})
