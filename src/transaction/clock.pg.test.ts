import { afterAll, beforeAll, beforeEach, afterEach, describe, expect, test } from 'vitest'
import type { FreshDatabase } from '../../test/support/database.ts'
import { freshDatabase } from '../../test/support/database.ts'
import { present } from '../base/assert.ts'
import { Connection } from '../postgres/connection.ts'
import { sqlState } from '../postgres/sqlstate.ts'

/** The clock as SQL, on one server. What closing needs beyond it is in test/cluster/clock.test.ts. */

const msTicks = 0x1_0000n
const yearMs = 365n * 86_400_000n

let database: FreshDatabase
let admin: Connection
let opened: Connection[] = []

beforeAll(async () => {
  database = await freshDatabase()
  admin = await connect()
  await admin.script(`call holdfast.found_shard('test', 'eu-west/payroll', 'local', gen_random_uuid(), 500)`)
  opened = []
})

afterAll(async () => {
  admin.release()
  await database.drop()
})

beforeEach(async () => {
  await admin.query('select setval($1, 1)', ['holdfast.floor'])
})

afterEach(() => {
  for (const connection of opened) connection.release()
  opened = []
})

async function connect(role?: string): Promise<Connection> {
  const connection = await Connection.connect(database.target(role), 5_000)
  opened.push(connection)
  return connection
}

async function value(connection: Connection, sql: string, values: readonly unknown[] = []): Promise<bigint> {
  const { rows } = await connection.query<{ value: string }>(`select (${sql})::bigint as value`, values)
  return BigInt(present(rows[0], 'a row').value)
}

const clockNow = () => value(admin, 'select last_value from holdfast.hlc')
const wallNow = () => value(admin, 'holdfast.wall_hlc()')

describe('moving', () => {
  test('C2: tick brings a clock that is behind to wall time, and leaves one that is ahead', async () => {
    const before = await wallNow()
    const ticked = await value(admin, 'holdfast.tick(holdfast.wall_hlc())')
    expect(ticked).toBeGreaterThanOrEqual(before - msTicks)
    const ahead = (await wallNow()) + 200n * msTicks
    await value(admin, 'holdfast.observe($1, holdfast.wall_hlc())', [ahead])
    expect(await value(admin, 'holdfast.tick(holdfast.wall_hlc())')).toBe(ahead)
    expect(await clockNow()).toBe(ahead)
  })

  test('C2: observe moves past a timestamp from elsewhere and does nothing when it is already past', async () => {
    const target = (await wallNow()) + 300n * msTicks
    await value(admin, 'holdfast.observe($1, holdfast.wall_hlc())', [target])
    const reached = await clockNow()
    expect(reached).toBeGreaterThanOrEqual(target)
    await value(admin, 'holdfast.observe($1, holdfast.wall_hlc())', [target - 5n])
    expect(await clockNow()).toBe(reached)
    expect(await value(admin, 'holdfast.draw()')).toBeGreaterThan(target)
  })

  test('near targets are drawn: a stream of observations does not run the clock ahead', async () => {
    const setOffset = (ms: number) => admin.query('update holdfast.shard set max_clock_offset_ms = $1', [ms])
    const clockBefore = await clockNow()
    // So far ahead that the wall does not pass it during the test.
    await setOffset(3_600_000)
    await value(admin, 'holdfast.observe($1, holdfast.wall_hlc())', [(await wallNow()) + 3_000_000n * msTicks])
    const reached = await clockNow()
    for (let step = 1n; step <= 200n; step += 1n) {
      await value(admin, 'holdfast.observe($1, holdfast.wall_hlc())', [reached + step])
    }
    expect(await clockNow()).toBe(reached + 200n)
    await setOffset(500)
    await admin.query('select setval($1, $2)', ['holdfast.hlc', clockBefore])
  })

  test('C6: near targets are drawn also where the wall of the server, which is not believed, has passed them', async () => {
    const clockBefore = await clockNow()
    const reached = (await wallNow()) - 60_000n * msTicks
    await admin.query('select setval($1, $2)', ['holdfast.hlc', reached])
    for (let step = 1n; step <= 50n; step += 1n) {
      await value(admin, 'holdfast.observe($1, $2)', [reached + step, reached - 10n * msTicks])
      await value(admin, 'holdfast.observe_decided($1, $2)', [reached + step, reached - 10n * msTicks])
    }
    expect(await clockNow()).toBe(reached + 50n)
    await admin.query('select setval($1, $2)', ['holdfast.hlc', clockBefore])
  })

  test('HZ-C6: a timestamp a year ahead is refused with HF001, and the clock stays', async () => {
    const gateway = await connect('holdfast_gateway')
    const before = await clockNow()
    const refused = value(gateway, 'holdfast.observe($1, holdfast.wall_hlc())', [before + yearMs * msTicks])
    await expect(refused).rejects.toMatchObject({ sqlState: sqlState.clockOffsetExceeded })
    expect(await clockNow()).toBe(before)
  })

  test('HZ-P3: a decided timestamp is adopted up to three offsets ahead of the server, however wrong its witness is', async () => {
    const before = await clockNow()
    for (const [aheadMs, witnessMs] of [
      [1_200n, -yearMs],
      [1_300n, yearMs],
    ] as const) {
      const wall = await wallNow()
      const decided = wall + aheadMs * msTicks
      expect(await value(admin, 'holdfast.observe_decided($1, $2)', [decided, wall + witnessMs * msTicks])).toBe(
        decided,
      )
    }
    await admin.query('select setval($1, $2)', ['holdfast.hlc', before])
  })

  test('HZ-P3: a decided timestamp is adopted where the server is a year behind, by the wall of the gateway', async () => {
    const before = await clockNow()
    const witness = (await wallNow()) + yearMs * msTicks
    expect(await value(admin, 'holdfast.observe_decided($1, $1)', [witness])).toBe(witness)
    await admin.query('select setval($1, $2)', ['holdfast.hlc', before])
  })

  test('HZ-C6: a decided timestamp further ahead than a vote can have checked is refused, and so is its decision row', async () => {
    const before = await clockNow()
    const decided = (await wallNow()) + yearMs * msTicks
    const observed = value(admin, 'holdfast.observe_decided($1, holdfast.wall_hlc())', [decided])
    await expect(observed).rejects.toMatchObject({ sqlState: sqlState.clockOffsetExceeded })
    expect(await clockNow()).toBe(before)
    const recorded = admin.query(
      `select holdfast.record_decision(gen_random_uuid(), 'COMMITTED', $1, 'us-east/treasury', 1)`,
      [decided],
    )
    await expect(recorded).rejects.toMatchObject({ sqlState: sqlState.clockRegressed })
  })
})

describe('HZ-C9: a mover paused between reading and setting', () => {
  /** `holdfast.move_clock` with a pause, between reading and setting, that ends when the test releases a lock. */
  async function pausedMover(keepCheck: boolean, draws: number): Promise<bigint> {
    const { rows } = await admin.query<{ source: string }>(
      `select pg_get_functiondef('holdfast.move_clock(bigint, bigint)'::regprocedure) as source`,
    )
    const source = present(rows[0], 'the function').source
    const paused = source
      .replace('holdfast.move_clock', 'public.paused_mover')
      .replace(
        'v_to := greatest',
        'if attempt = 1 then perform pg_advisory_xact_lock(42); end if;\n    v_to := greatest',
      )
    const mover = keepCheck ? paused : paused.replace(/ where pg_current_wal_insert_lsn\(\) - v_logged < \d+/, '')
    expect(mover).not.toBe(keepCheck ? source : paused)
    await admin.script(mover)

    // Behind the wall, so that the mover sets. The test restarts the sequence; nothing else does.
    await admin.query('select setval($1, $2)', ['holdfast.hlc', (await wallNow()) - 60_000n * msTicks])
    const holder = await connect()
    await holder.query('select pg_advisory_lock(42)')
    const target = (await clockNow()) + 2n
    const moving = await connect()
    const moved = moving.query('select public.paused_mover($1, holdfast.wall_hlc())', [target])
    await waitsForLock(moving.serverProcessId)
    // More is drawn during the pause than the mover's target lies ahead.
    await admin.query(`select max(nextval('holdfast.hlc')) from generate_series(1, $1)`, [draws])
    const drawn = await clockNow()
    await holder.query('select pg_advisory_unlock(42)')
    await moved
    return (await clockNow()) - drawn
  }

  test('does not set the clock back: it reads again', async () => {
    expect(await pausedMover(true, 200_000)).toBeGreaterThanOrEqual(0n)
  })

  test('nor where so little was drawn that the log does not tell: the margin has room for it', async () => {
    expect(await pausedMover(true, 1_000)).toBeGreaterThanOrEqual(0n)
  })

  test('sets the clock back without a look at what was logged', async () => {
    expect(await pausedMover(false, 200_000)).toBeLessThan(0n)
  })

  test('the draws that a mover leaves room for write more log than it lets pass, however little else is written', async () => {
    // Right behind a record of the sequence, which covers the 32 values that are drawn next.
    await admin.query('select setval($1, last_value) from holdfast.hlc', ['holdfast.hlc'])
    const before = await value(admin, `pg_current_wal_insert_lsn() - '0/0'`)
    await admin.query(`select max(nextval('holdfast.hlc')) from generate_series(1, 2048)`)
    expect((await value(admin, `pg_current_wal_insert_lsn() - '0/0'`)) - before).toBeGreaterThan(4_096n)
  })

  async function waitsForLock(pid: number): Promise<void> {
    const sql = 'select from pg_locks where pid = $1 and not granted'
    while ((await admin.query(sql, [pid])).rowCount === 0);
  }
})

describe('drawing', () => {
  test('C3: a stamp at or below the floor raises HF002', async () => {
    await admin.query('select holdfast.raise_floor($1)', [(await clockNow()) + 10n])
    await expect(value(admin, 'holdfast.draw()')).rejects.toMatchObject({ sqlState: sqlState.clockRegressed })
  })

  test('C3: the floor never falls', async () => {
    const floor = (await clockNow()) - 1n
    await admin.query('select holdfast.raise_floor($1)', [floor])
    await admin.query('select holdfast.raise_floor($1)', [floor - 1_000n])
    expect(await value(admin, 'select last_value from holdfast.floor')).toBe(floor)
  })

  test('HZ-C8: C1: the transaction that draws has an xid before it draws', async () => {
    const before = await clockNow()
    // An exhausted sequence stops the function at the draw, so that what came before it shows.
    await admin.query('select setval($1, 9223372036854775807)', ['holdfast.hlc'])
    await admin.query('begin')
    await admin.query('do $$ begin perform holdfast.draw(); exception when others then null; end $$')
    const { rows } = await admin.query<{ xid: string | null }>('select pg_current_xact_id_if_assigned()::text as xid')
    await admin.query('rollback')
    await admin.query('select setval($1, $2)', ['holdfast.hlc', before])
    expect(present(rows[0], 'a row').xid).not.toBeNull()
  })

  test('C5: stamps of concurrent sessions are distinct and ordered as the row conflicts between them', async () => {
    await admin.script('create table public.counter (n integer not null); insert into counter values (0)')
    await admin.script('create table public.stamped (n integer primary key, stamp bigint not null unique)')
    const sessions = await Promise.all(Array.from({ length: 8 }, () => connect()))
    await Promise.all(
      sessions.map(async (session) => {
        for (let round = 0; round < 25; round += 1) {
          await session.query('begin')
          // The lock is waited for first, the stamp is drawn last.
          const { rows } = await session.query<{ n: number }>('update counter set n = n + 1 returning n')
          await session.query('insert into stamped values ($1, holdfast.draw())', [present(rows[0], 'a row').n])
          await session.query('commit')
        }
      }),
    )
    const { rows } = await admin.query<{ stamp: string }>('select stamp from stamped order by n')
    const stamps = rows.map((row) => BigInt(row.stamp))
    expect(stamps).toHaveLength(200)
    expect(stamps).toEqual([...stamps].sort((a, b) => (a < b ? -1 : 1)))
  })

  test('HZ-C4: stamping does not make disjoint serializable transactions conflict', async () => {
    await admin.script('create table public.disjoint (n integer primary key, stamp bigint)')
    await admin.script('insert into disjoint select n from generate_series(1, 8) n')
    const sessions = await Promise.all(Array.from({ length: 8 }, () => connect()))
    for (const session of sessions) await session.query('begin isolation level serializable')
    for (const [n, session] of sessions.entries()) {
      await session.query('update disjoint set stamp = holdfast.draw() where n = $1', [n + 1])
    }
    const tags = await Promise.all(sessions.map(async (session) => (await session.query('commit')).tag))
    expect(tags).toEqual(Array.from({ length: 8 }, () => 'COMMIT'))
  })
})

test('HZ-C3: a sequence or table of the schema that is not permanent is named', async () => {
  const names = async () => {
    const gateway = await connect('holdfast_gateway')
    const { rows } = await gateway.query<{ name: string }>(
      'select r.name from holdfast.impermanent_relations() r(name)',
    )
    return rows.map(({ name }) => name)
  }
  expect(await names()).toEqual([])
  await admin.script('alter sequence holdfast.floor set unlogged; alter table holdfast.attempt set unlogged')
  expect((await names()).sort()).toEqual(['holdfast.attempt', 'holdfast.floor'])
  await admin.script('alter sequence holdfast.floor set logged; alter table holdfast.attempt set logged')
})
