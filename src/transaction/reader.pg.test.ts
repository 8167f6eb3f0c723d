import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { both, gate, gatewayOf, insertHold, insertRun, newRun, request } from '../../test/support/approval.ts'
import { bind } from '../../test/support/bind.ts'
import { DatabaseShards, home, tenant, treasury } from '../../test/support/database-shards.ts'
import { present } from '../base/assert.ts'
import { newTimeOrderedUuid } from '../base/random.ts'
import type { StepName } from '../base/step.ts'
import type { NodeId, TransactionId } from '../directory/topology.ts'
import { Connection } from '../postgres/connection.ts'
import type { Tx } from './transaction.ts'
import { transact } from './transaction.ts'

/** A participant that only read: it votes, commits with its vote, and is in no record. */
let shards: DatabaseShards

beforeAll(async () => {
  shards = await DatabaseShards.open()
})

afterEach(async () => {
  await shards.closeGateways()
})

afterAll(async () => {
  await shards.close()
})

/** The same batched: it travels with its vote. */
const check =
  (run: string, sql: string, values: unknown[] = [], expected?: { rows: number }) =>
  async (tx: Tx) => {
    tx.batch('treasury', [expected === undefined ? [sql, values] : [sql, values, expected]])
    await tx.query('payroll', insertRun, [tenant, run])
  }

const lookAt =
  (run: string, sql: string, values: unknown[] = []) =>
  async (tx: Tx) => {
    await tx.query('treasury', sql, values)
    await tx.query('payroll', insertRun, [tenant, run])
  }

/** Whoever prepares, and whoever votes "read", passes a step of its own. */
async function counting() {
  const steps: StepName[] = []
  const environment = await gatewayOf(shards, { onStep: async (step) => void steps.push(step) })
  const times = (name: StepName) => steps.filter((step) => step === name).length
  return { environment, prepares: () => times('global prepare sent'), reads: () => times('global reading confirmed') }
}

const levels = ['read committed', 'repeatable read', 'serializable'] as const
const openHere = `select from pg_stat_activity where state like 'idle in transaction%' and usename = 'holdfast_gateway'
  and datname = current_database()`

const ways = [
  ['awaited', lookAt],
  ['batched', check],
] as const

test.each(levels.flatMap((isolation) => ways.map(([how, act]) => [isolation, how, act] as const)))(
  'is not prepared and is in no record, and the stamp lies above what it read: %s, %s',
  async (isolation, _, act) => {
    const { environment, prepares, reads } = await counting()
    await shards.rows(
      treasury,
      'select holdfast.observe(holdfast.wall_hlc() + (300::bigint << 16), holdfast.wall_hlc())',
    )
    const run = newRun()
    const outcome = await transact(environment, request(run, { isolation }), act(run, 'select from holds'))
    expect([prepares(), reads()]).toEqual([0, 1])
    expect(outcome.shards.map(({ shard, role, pending }) => [shard, role, pending])).toEqual([
      [home, 'home', undefined],
      [treasury, 'reader', undefined],
    ])
    const [clock] = await shards.rows<{ clock: string }>(treasury, 'select last_value::text as clock from holdfast.hlc')
    expect(outcome.commitTimestamp).toBeGreaterThan(BigInt(clock?.clock ?? 0) - (100n << 16n))
    await environment.background.drain()
    expect(await shards.rows(home, 'select participants from holdfast.commit_log where subject = $1', [run])).toEqual([
      { participants: [] },
    ])
    const branches = 'select from holdfast.branch where transaction_id = $1'
    expect(await shards.rows(treasury, branches, [outcome.transactionId])).toEqual([])
  },
)

test.each([
  ['a row lock', 'select from holds for update', 'read committed'],
  ['a lock that others rely on', 'select pg_advisory_xact_lock(7, 7)', 'read committed'],
  ['a function that writes', "select add_hold('$run')", 'repeatable read'],
  ['a row lock, whatever is watched', 'select from holds for share', 'serializable'],
] as const)('is prepared with %s', async (_, sql, isolation) => {
  await shards.admin(treasury).script(`create or replace function add_hold(p_run text) returns void language sql as
    $$ insert into holds (tenant, run, cents) values ('${tenant}', p_run, 1) $$`)
  const { environment, prepares, reads } = await counting()
  const run = newRun()
  await shards.rows(treasury, insertHold, [tenant, `${run}-other`])
  await transact(environment, request(run, { isolation }), lookAt(run, sql.replace('$run', run)))
  await environment.background.drain()
  expect([prepares(), reads()]).toEqual([1, 0])
  expect(await both(shards, run)).toEqual([1, sql.startsWith('select add_hold') ? 1 : 0])
})

test('refuses to conclude what has written: the commit behind it would decide alone', async () => {
  const run = newRun()
  const raw = await Connection.connect(shards.target(treasury, 'holdfast_gateway'), 5_000)
  try {
    const id = '01890a5d-ac96-774b-bcce-b302099a8057'
    const placements = JSON.stringify({ treasury: 1 })
    const outcomes = await raw.flight([
      { text: 'begin isolation level read committed, read write, deferrable', joined: true },
      { ...bind(tenant, id, placements), joined: true },
      { text: 'set local role holdfast_bound', joined: true },
      { text: insertHold, values: [tenant, run], joined: true },
      { text: 'reset role', joined: true },
      { text: 'select holdfast.conclude_reading($1, $2, 1, $3)', values: [id, tenant, placements], joined: true },
      { text: 'commit' },
    ])
    expect(outcomes.map((outcome) => (outcome.ok ? outcome.tag : outcome.error.sqlState))).toEqual([
      'BEGIN',
      'SELECT',
      'SET',
      'INSERT',
      'RESET',
      'HF018',
      'HF018',
    ])
    expect(raw.status).toBe('failed')
  } finally {
    raw.destroy()
  }
  expect(await both(shards, run)).toEqual([0, 0])
})

describe('a batch that was taken at its word (Q6)', () => {
  const writes: [string, string][] = [
    ['wrote', "select add_hold('$run')"],
    ['took a lock that others rely on', 'select pg_advisory_xact_lock(7, 7)'],
    ['locked a table', 'select lock_holds()'],
    ['drew a number', "select nextval('numbers')"],
  ]

  beforeAll(() =>
    shards.admin(treasury).script(`
      create or replace function add_hold(p_run text) returns void language sql as
        $$ insert into holds (tenant, run, cents) values ('${tenant}', p_run, 1) $$;
      create function lock_holds() returns void language plpgsql as
        $$ begin lock table holds in row share mode; end $$;
      create sequence numbers;
      grant usage on sequence numbers to public`),
  )

  test.each(writes)('and %s is prepared by a second attempt, and by the first from then on', async (_, sql) => {
    const { environment, prepares, reads } = await counting()
    const run = newRun()
    let runs = 0
    const act = async (tx: Tx) => {
      runs += 1
      await check(run, sql.replace('$run', run))(tx)
    }
    await transact(environment, request(run), act)
    await environment.background.drain()
    expect([runs, prepares(), reads()]).toEqual([2, 1, 0])
    const added = sql.includes('add_hold') ? 1 : 0
    expect(await both(shards, run)).toEqual([1, added])
    await shards.rows(home, 'delete from runs where id = $1', [run])
    await shards.rows(treasury, 'delete from holds where run = $1', [run])
    await transact(environment, request(run), act)
    await environment.background.drain()
    expect([runs, prepares(), reads()]).toEqual([3, 2, 0])
    expect(await both(shards, run)).toEqual([1, added])
  })

  test('behind an awaited read it costs no more: the same part, the same conclusion', async () => {
    const { environment, prepares, reads } = await counting()
    const run = newRun()
    await transact(environment, request(run), async (tx) => {
      await tx.query('treasury', 'select from holds')
      await check(run, 'select from holds')(tx)
    })
    expect([prepares(), reads()]).toEqual([0, 1])
  })

  test('is not where the caller chose the id: that request is tried once, and must not fail by a guess', async () => {
    const { environment, prepares, reads } = await counting()
    const run = newRun()
    const transactionId = newTimeOrderedUuid() as TransactionId
    await transact(environment, request(run, { transactionId }), check(run, `select add_hold('${run}')`))
    expect([prepares(), reads()]).toEqual([1, 0])
  })

  test('counts its rows: another number than was demanded is an abort', async () => {
    const { environment, prepares, reads } = await counting()
    const run = newRun()
    const sql = 'select from holds where run = $1'
    const refused = transact(environment, request(run), check(run, sql, [run], { rows: 1 }))
    await expect(refused).rejects.toMatchObject({ code: 'transaction_refused', detail: { shard: treasury, rows: 0 } })
    await shards.rows(treasury, insertHold, [tenant, run])
    await transact(environment, request(run), check(run, sql, [run], { rows: 1 }))
    expect([prepares(), reads()]).toEqual([0, 1])
    expect(await both(shards, run)).toEqual([1, 1])
  })

  test('fails as a whole: nothing of its statements decides alone', async () => {
    const environment = await gatewayOf(shards)
    const run = newRun()
    const failing = transact(environment, request(run), async (tx) => {
      tx.batch('treasury', [[`select add_hold('${run}')`], ['select 1 / 0']])
      await tx.query('payroll', insertRun, [tenant, run])
    })
    await expect(failing).rejects.toMatchObject({ code: 'statement_failed', detail: { sqlState: '22012' } })
    await environment.background.drain()
    expect(await both(shards, run)).toEqual([0, 0])
    expect(await shards.rows(treasury, openHere)).toEqual([])
  })
})

test('counts by the barrier of the server that it read, whoever is said to be its primary by then', async () => {
  const environment = await gatewayOf(shards)
  const { primary } = present(shards.topology.current().shards.get(treasury), 'a shard of the test')
  const run = newRun()
  await transact(environment, request(run), async (tx) => {
    await tx.query('treasury', 'select from holds')
    shards.replaceShard(treasury, { primary: { ...primary, id: `${treasury}.2` as NodeId, port: 1 } })
    await tx.query('payroll', insertRun, [tenant, run])
  })
  shards.replaceShard(treasury, { primary })
  expect(await both(shards, run)).toEqual([1, 0])
})

test.each(ways)('is refused by a placement that moved before its vote: %s', async (_, act) => {
  await shards.rows(treasury, "update holdfast.placement set version = version + 1 where domain = 'treasury'")
  const stale = { current: () => shards.directory, refresh: () => Promise.resolve(shards.directory) }
  const late = transact(await gatewayOf(shards, { directory: stale }), request('x'), act('x', 'select from holds'))
  await expect(late).rejects.toMatchObject({ code: 'placement_stale', detail: { shard: treasury } })
  await shards.rows(treasury, "update holdfast.placement set version = version - 1 where domain = 'treasury'")
})

test.each(ways)('is refused by a shard at another epoch than it was routed by: %s', async (_, act) => {
  await shards.rows(treasury, 'update holdfast.shard set epoch = epoch + 1')
  const run = newRun()
  const late = transact(await gatewayOf(shards), request(run), act(run, 'select from holds'))
  await expect(late).rejects.toMatchObject({ code: 'shard_fenced', detail: { shard: treasury } })
  await shards.rows(treasury, 'update holdfast.shard set epoch = epoch - 1')
  expect(await both(shards, run)).toEqual([0, 0])
  // The caller does not wait for the rollback.
  await expect.poll(() => shards.rows(treasury, openHere)).toEqual([])
})

test.each(levels)('holds nothing at its shard behind its vote, and nothing there undoes it: %s', async (isolation) => {
  const stop = gate('local stamp')
  const environment = await gatewayOf(shards, { onStep: stop.onStep })
  const run = newRun()
  const committed = transact(environment, request(run, { isolation }), lookAt(run, 'select from holds'))
  await stop.reached
  expect(await shards.rows(treasury, openHere)).toEqual([])
  expect(await shards.rows(home, openHere)).toHaveLength(1)
  await endConnections()
  await shards.rows(treasury, "update holdfast.placement set version = version + 1 where domain = 'treasury'")
  stop.release()
  await committed
  await shards.rows(treasury, "update holdfast.placement set version = version - 1 where domain = 'treasury'")
  expect(await both(shards, run)).toEqual([1, 0])
})

/** Every backend of a gateway at the treasury. */
async function endConnections(): Promise<void> {
  await shards.rows(
    treasury,
    `select pg_terminate_backend(pid, 5000) from pg_stat_activity
     where usename = 'holdfast_gateway' and datname = current_database()`,
  )
}
