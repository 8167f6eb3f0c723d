import { afterAll, afterEach, beforeAll, expect, test } from 'vitest'
import { present } from '../../src/base/assert.ts'
import { systemClock } from '../../src/base/clock.ts'
import { silentMetrics } from '../../src/base/metrics.ts'
import { randomBelow } from '../../src/base/random.ts'
import { noStep } from '../../src/base/step.ts'
import type { RegionName } from '../../src/directory/topology.ts'
import { Connection } from '../../src/postgres/connection.ts'
import type { ClockKeeperOptions } from '../../src/transaction/clock-keeper.ts'
import { ClockKeeper, clockCadenceDefault } from '../../src/transaction/clock-keeper.ts'
import type { ClosingBlocker } from '../../src/transaction/closer.ts'
import type { ClosedReading } from '../support/closed-timestamp-oracle.ts'
import { readClosed, readStamps, stampedTable, wrongReadings } from '../support/closed-timestamp-oracle.ts'
import { closeOnce } from '../support/close-once.ts'
import { eventually } from '../support/eventually.ts'
import { payrollPlan, payrollShard } from '../support/payroll-plan.ts'
import { TestShards } from '../support/shards.ts'

const primary = 'eu-west/payroll.1'
const follower = 'eu-west/payroll.2'

let shards: TestShards
let opened: Connection[] = []
let running: { stop: AbortController; ended: Promise<void> }[] = []

beforeAll(async () => {
  shards = await TestShards.open(payrollPlan([{ name: payrollShard, followers: ['eu-west'] }]))
  const admin = await connect(primary)
  await admin.script(stampedTable)
  // What PostgreSQL does by itself also draws transaction ids, which the interleavings below count on.
  await admin.query('alter system set autovacuum = off')
  await admin.query('select pg_reload_conf()')
})

afterEach(async () => {
  for (const { stop } of running) stop.abort()
  await Promise.all(running.map(({ ended }) => ended))
  running = []
  const admin = await connect(primary)
  const { rows } = await admin.query<{ gid: string }>('select gid from pg_prepared_xacts')
  for (const { gid } of rows) await admin.query(`rollback prepared '${gid}'`)
  for (const connection of opened) connection.release()
  opened = []
})

afterAll(() => shards.close())

async function connect(node: string): Promise<Connection> {
  const connection = await shards.connect(node)
  opened.push(connection)
  return connection
}

const cadence = { ...clockCadenceDefault, activeMs: 1, trailMs: 1, electionMs: 10, heartbeatMs: 50, blockedAfterMs: 20 }

function keeper(options: Partial<ClockKeeperOptions> = {}): ClockKeeper {
  return new ClockKeeper({
    shard: payrollShard,
    region: 'eu-west' as RegionName,
    topology: shards.topology,
    targetOf: shards.targetOf,
    clock: systemClock,
    metrics: silentMetrics,
    onStep: noStep,
    maxClockOffsetMs: 500,
    cadence,
    ...options,
  })
}

function run(kept: ClockKeeper): void {
  const stop = new AbortController()
  running.push({ stop, ended: kept.run(stop.signal) })
}

async function value(connection: Connection, sql: string, values: readonly unknown[] = []): Promise<bigint> {
  const { rows } = await connection.query<{ value: string }>(`select (${sql})::bigint as value`, values)
  return BigInt(present(rows[0], 'a row').value)
}

const closedOf = (connection: Connection) => value(connection, 'select closed_timestamp from holdfast.closed')

/** Puts the clock ahead of the wall, where neither a tick nor a draw costs a transaction id of the closer. */
async function aheadOfWall(admin: Connection): Promise<void> {
  await admin.query('select holdfast.observe(holdfast.wall_hlc() + (400::bigint << 16), holdfast.wall_hlc())')
  await admin.query(`select nextval('holdfast.hlc')`)
}

/** Stamps and commits, or prepares and then commits, over and over. */
async function stampAway(session: Connection, name: string, rounds: number): Promise<void> {
  for (let round = 0; round < rounds; round += 1) {
    await session.query('begin')
    await session.query('insert into stamped values (holdfast.draw())')
    if (randomBelow(2) === 0) await systemClock.sleep(randomBelow(6))
    if (randomBelow(3) === 0) {
      await session.query(`prepare transaction '${name}-${round}'`)
      await systemClock.sleep(randomBelow(6))
      await session.query(`commit prepared '${name}-${round}'`)
    } else {
      await session.query('commit')
    }
  }
}

test('C4: HZ-C1: every reading shows all that is at or below its closed timestamp, on the primary and on a follower', async () => {
  run(keeper())
  const sessions = await Promise.all(Array.from({ length: 6 }, () => connect(primary)))
  const readers = [primary, follower].map(async (node) => ({ node, connection: await connect(node) }))
  const readings: ClosedReading[] = []
  let busy = true
  const reading = readers.map(async (reader) => {
    const { node, connection } = await reader
    while (busy) readings.push(await readClosed(node, connection))
  })
  await Promise.all(sessions.map((session, index) => stampAway(session, `s${index}`, 60)))
  const admin = await connect(primary)
  const last = present((await readStamps(admin)).at(-1), 'something was stamped')
  const onFollower = await connect(follower)
  await eventually(async () => (await closedOf(onFollower)) >= last)
  busy = false
  await Promise.all(reading)

  const stamps = await readStamps(admin)
  expect(wrongReadings(readings, stamps)).toEqual([])
  // The oracle had something to say: many closings, with commits between them, on both nodes.
  for (const node of [primary, follower]) {
    const counts = new Set(readings.filter((one) => one.node === node).map((one) => one.count))
    expect(counts.size).toBeGreaterThan(20)
  }
})

test('HZ-C1: the oracle sees it when a closer waits for the xmax of its snapshot', async () => {
  const admin = await connect(primary)
  const session = await connect(primary)
  await aheadOfWall(admin)
  await session.query('begin')
  await session.query('insert into stamped values (holdfast.draw())')

  const closing = await value(admin, 'holdfast.tick(holdfast.wall_hlc())')
  const xmax = await value(admin, 'pg_snapshot_xmax(pg_current_snapshot())::text')
  expect(await value(admin, 'pg_snapshot_xmin(pg_current_snapshot())::text')).toBeGreaterThanOrEqual(xmax)
  await admin.query('select holdfast.publish_closed($1)', [closing])
  const reading = await readClosed(primary, admin)
  await session.query('commit')
  expect(wrongReadings([reading], await readStamps(admin))).toEqual([reading])
})

test('HZ-C8: the oracle sees it when a stamp is drawn before its transaction has an xid', async () => {
  const admin = await connect(primary)
  const session = await connect(primary)
  await aheadOfWall(admin)
  await session.query('begin')
  const stamp = await value(session, `nextval('holdfast.hlc')`)
  const { rows } = await session.query('select pg_current_xact_id_if_assigned()::text as xid')
  expect(rows).toEqual([{ xid: null }])

  await closeOnce(admin, payrollShard)
  const reading = await readClosed(primary, admin)
  await session.query('insert into stamped values ($1)', [stamp])
  await session.query('commit')
  expect(wrongReadings([reading], await readStamps(admin))).toEqual([reading])
})

test.each(['open', 'prepared'])(
  'C4: HZ-C7: closing waits for an %s transaction that has stamped, and names it',
  async (state) => {
    const admin = await connect(primary)
    const session = await connect(primary)
    await aheadOfWall(admin)
    await session.query('begin')
    const { rows } = await session.query<{ stamp: string }>(
      'insert into stamped values (holdfast.draw()) returning stamp',
    )
    const stamp = BigInt(present(rows[0], 'a row').stamp)
    if (state === 'prepared') await session.query(`prepare transaction 'held'`)

    const blockers: ClosingBlocker[] = []
    const closing = closeOnce(admin, payrollShard, (blocker) => blockers.push(blocker))
    await eventually(() => blockers.length > 0)
    const reading = await readClosed(primary, await connect(primary))
    expect(reading.closed).toBeLessThan(stamp)
    expect(blockers[0]).toMatchObject(
      state === 'prepared' ? { gid: 'held', pid: null } : { pid: session.serverProcessId, gid: null },
    )
    expect(blockers[0]?.database).toBe('holdfast')
    await session.query(state === 'prepared' ? `commit prepared 'held'` : 'commit')
    expect(await closing).toBeGreaterThanOrEqual(stamp)
  },
)

test('HZ-C7: a keeper whose closing is held back names who holds it, keeps the clock at wall time, and tells of the end once', async () => {
  const admin = await connect(primary)
  const session = await connect(primary)
  await session.query('begin')
  await session.query('select pg_current_xact_id()')
  const blockers: ClosingBlocker[] = []
  const heldMs: number[] = []
  const endedMs: number[] = []
  run(
    keeper({
      onBlocked: (blocker, { blockedMs }) => {
        blockers.push(blocker)
        heldMs.push(blockedMs)
      },
      onUnblocked: ({ blockedMs }) => endedMs.push(blockedMs),
    }),
  )
  await eventually(() => blockers.length > 2)
  expect(endedMs).toEqual([])
  // At once, 20 ms later, and 40 ms after that.
  expect(present(heldMs[1], 'told again') - present(heldMs[0], 'told')).toBeGreaterThan(19)
  expect(present(heldMs[2], 'told again') - present(heldMs[1], 'told')).toBeGreaterThan(39)
  expect(blockers[0]).toMatchObject({ pid: session.serverProcessId, state: 'idle in transaction' })
  const wall = await value(admin, 'holdfast.wall_hlc()')
  await eventually(async () => (await value(admin, 'select last_value from holdfast.hlc')) >= wall)
  await session.query('rollback')
  await eventually(async () => (await closedOf(admin)) >= wall)
  await eventually(() => endedMs.length > 0)
  expect(endedMs).toHaveLength(1)
  expect(endedMs[0]).toBeGreaterThan(present(heldMs.at(-1), 'told'))
})

test.each(['open', 'prepared'])(
  'HZ-C7: an %s transaction in another database of the server holds closing back as well, and is named',
  async (state) => {
    const target = { ...shards.target(shards.node(primary)), database: 'postgres' }
    const elsewhere = await Connection.connect(target, 10_000)
    opened.push(elsewhere)
    await elsewhere.query('begin')
    await elsewhere.query('select pg_current_xact_id()')
    if (state === 'prepared') await elsewhere.query(`prepare transaction 'elsewhere'`)
    const blockers: ClosingBlocker[] = []
    const closing = closeOnce(await connect(primary), payrollShard, (blocker) => blockers.push(blocker))
    await eventually(() => blockers.length > 0)
    expect(blockers[0]).toMatchObject(
      state === 'prepared'
        ? { gid: 'elsewhere', database: 'postgres' }
        : { pid: elsewhere.serverProcessId, database: 'postgres' },
    )
    await elsewhere.query(state === 'prepared' ? `rollback prepared 'elsewhere'` : 'rollback')
    await closing
  },
)

test('HZ-C2: a closer that does it all in one transaction waits for itself', async () => {
  const admin = await connect(primary)
  await admin.query('begin')
  await admin.query('select holdfast.tick(holdfast.wall_hlc())')
  const own = await value(admin, 'pg_current_xact_id()::text')
  expect(await value(admin, 'pg_snapshot_xmin(pg_current_snapshot())::text')).toBeLessThanOrEqual(own)
  await admin.query('rollback')
})

test('C4: HZ-C2: what is published never goes back', async () => {
  const admin = await connect(primary)
  const closed = await closeOnce(admin, payrollShard)
  expect(await value(admin, 'holdfast.publish_closed($1)', [closed - 1n])).toBe(closed)
})

test('a reader elsewhere that waits for its frontier has it closed here', async () => {
  run(keeper())
  const admin = await connect(primary)
  const frontier = (await value(admin, 'holdfast.wall_hlc()')) + (450n << 16n)
  await admin.query('select holdfast.request_closing($1, holdfast.wall_hlc())', [frontier])
  await eventually(async () => (await closedOf(admin)) >= frontier)
})

test('one keeper is elected, and another takes over when its connection ends', async () => {
  run(keeper())
  run(keeper())
  const admin = await connect(primary)
  const elected = async () => {
    const { rows } = await admin.query<{ pid: number }>(`
      select l.pid from pg_locks l where l.locktype = 'advisory' and l.granted
      and ((l.classid::bigint << 32) | l.objid::bigint) = hashtextextended('holdfast.clock-keeper', 0)`)
    expect(rows.length).toBeLessThanOrEqual(1)
    return rows[0]?.pid
  }
  await eventually(async () => (await elected()) !== undefined)
  const first = await elected()
  await admin.query('select pg_terminate_backend($1)', [first])
  await eventually(async () => ![undefined, first].includes(await elected()))
  const drawn = await value(admin, 'holdfast.draw()')
  await eventually(async () => (await closedOf(admin)) >= drawn)
})

test('C2: after a crash of the server the clock goes on above everything that was drawn', async () => {
  const before = await connect(primary)
  await aheadOfWall(before)
  const drawn = await value(before, `select max(nextval('holdfast.hlc')) from generate_series(1, 100)`)
  await before.query('create table public.crash_mark ()')
  await shards.server(primary).kill()
  await shards.server(primary).start()
  expect(await value(await connect(primary), 'holdfast.draw()')).toBeGreaterThan(drawn)
})

test('HZ-C3: a keeper refuses a shard whose clock a crash would reset', async () => {
  const admin = await connect(primary)
  await admin.query('alter sequence holdfast.hlc set unlogged')
  await expect(keeper().run(new AbortController().signal)).rejects.toMatchObject({
    code: 'check_failed',
    detail: { relations: ['holdfast.hlc'] },
  })
  await admin.query('alter sequence holdfast.hlc set logged')
})
