import { afterAll, afterEach, beforeAll, expect, test } from 'vitest'
import { present } from '../../src/base/assert.ts'
import type { Clock } from '../../src/base/clock.ts'
import { systemClock } from '../../src/base/clock.ts'
import type { OnStep } from '../../src/base/step.ts'
import { noStep } from '../../src/base/step.ts'
import type { RegionName } from '../../src/directory/topology.ts'
import type { Connection } from '../../src/postgres/connection.ts'
import { PrometheusMetrics } from '../../src/fleet/prometheus.ts'
import { Closer } from '../../src/transaction/closer.ts'
import { ClockKeepers, electedKeeper, keeperCadence, keeperSleeps, wallOffBy } from '../support/clock-keepers.ts'
import { eventually } from '../support/eventually.ts'
import { payrollPlan, payrollShard } from '../support/payroll-plan.ts'
import { TestShards } from '../support/shards.ts'

/** Who keeps the clock of a shard, when it works, and how closings overlap. That what it closes is right is in clock.test.ts. */

const primary = 'eu-west/payroll.1'
const far = { region: 'us-east' as RegionName }
/** So long that no test lives to see it. */
const neverMs = 3_600_000

let shards: TestShards
let keepers: ClockKeepers
let admin: Connection
let opened: Connection[] = []

beforeAll(async () => {
  shards = await TestShards.open(payrollPlan([{ name: payrollShard, followers: [] }]))
  keepers = new ClockKeepers(shards)
  admin = await shards.connect(primary)
})

afterEach(async () => {
  await keepers.stop()
  for (const connection of opened) connection.release()
  opened = []
})

afterAll(async () => {
  admin?.release()
  await shards?.close()
})

async function connect(): Promise<Connection> {
  const connection = await shards.connect(primary)
  opened.push(connection)
  return connection
}

async function value(sql: string, values: readonly unknown[] = []): Promise<bigint> {
  const { rows } = await admin.query<{ value: string }>(`select (${sql})::bigint as value`, values)
  return BigInt(present(rows[0], 'a row').value)
}

const closed = () => value('select closed_timestamp from holdfast.closed')
const keptBy = async (name: string) => (await electedKeeper(admin))?.name === name

const isAllClosed = async () =>
  (await value('select c.last_value - d.closed_timestamp from holdfast.hlc c, holdfast.closed d')) <= 0n

/** Counts the beats of a keeper, whose answers are held for a while. */
function beatCounter(answerMs = 0): { readonly onStep: OnStep; readonly beats: () => number } {
  let beats = 0
  const onStep: OnStep = (step) => {
    if (step === 'closer move') beats += 1
    return step === 'closer own xid' && answerMs > 0 ? systemClock.sleep(answerMs) : Promise.resolve()
  }
  return { onStep, beats: () => beats }
}

test('a keeper far away that is alone keeps, without a gap', async () => {
  const { onStep, beats } = beatCounter()
  keepers.run('far', { ...far, onStep })
  await eventually(() => keptBy('far'))
  const first = await electedKeeper(admin)
  // Many times over it looks whether a better candidate waits.
  const looks = `select count(*) from pg_stat_activity where application_name = 'far'`
  for (let from = beats(); beats() < from + 300; ) {
    await value('holdfast.draw()')
    expect(await electedKeeper(admin)).toEqual(first)
    expect(await value(looks)).toBe(1n)
  }
})

test('a keeper far away makes way for one beside the primary, and not the other way round', async () => {
  const [farMetrics, nearMetrics] = [new PrometheusMetrics(), new PrometheusMetrics()]
  const tellsLag = async ({ registry }: PrometheusMetrics) =>
    (await registry.metrics()).includes('closed_timestamp_lag_ms{')
  keepers.run('far', { ...far, metrics: farMetrics })
  await eventually(() => keptBy('far'))
  await eventually(() => tellsLag(farMetrics))
  keepers.run('near', { metrics: nearMetrics })
  await eventually(() => keptBy('near'))
  await eventually(async () => (await tellsLag(nearMetrics)) && !(await tellsLag(farMetrics)))
  const { onStep, beats } = beatCounter()
  keepers.run('other', { ...far, onStep })
  const first = await electedKeeper(admin)
  for (let look = 0; look < 100; look += 1) expect(await electedKeeper(admin)).toEqual(first)
  expect(beats()).toBe(0)
})

test('of candidates beside the primary one is first in line and looks often, the others do rarely', async () => {
  const pauses: Record<string, number[]> = { second: [], third: [] }
  const recording = (of: string): Clock => ({
    ...systemClock,
    sleep: (ms, signal) => {
      pauses[of]?.push(ms)
      return systemClock.sleep(ms, signal)
    },
  })
  const looksEvery = (of: string, ms: number) =>
    eventually(() => pauses[of]?.slice(-3).every((pause) => pause === ms) === true)
  const { electionMs, farElectionMs } = keeperCadence
  keepers.run('first')
  await eventually(() => keptBy('first'))
  keepers.run('second', { clock: recording('second') })
  await eventually(() => (pauses['second']?.length ?? 0) > 5)
  keepers.run('third', { clock: recording('third') })
  await eventually(() => (pauses['third']?.length ?? 0) > 5)
  await looksEvery('second', electionMs)
  await looksEvery('third', farElectionMs)
  await keepers.stop('first')
  // Whoever looks first has the place, and who is left is first in line.
  await eventually(async () => (await keptBy('second')) || (await keptBy('third')))
  await looksEvery((await keptBy('second')) ? 'third' : 'second', electionMs)
})

test.each([-neverMs, neverMs])(
  'a keeper whose wall clock is off by %i ms says so, and makes way for any whose clock agrees',
  async (offMs) => {
    const offsets: number[] = []
    const onDisagreement = (offsetMs: number) => offsets.push(offsetMs)
    keepers.run('wrong', { clock: wallOffBy(() => offMs), onDisagreement })
    await eventually(() => keptBy('wrong'))
    keepers.run('far', far)
    await eventually(() => keptBy('far'))
    expect(Math.round(present(offsets[0], 'an offset') / neverMs)).toBe(-Math.sign(offMs))
  },
)

test.each([0, 10])(
  'an idle shard is not looked at between heartbeats, and who waits for a timestamp wakes the keeper; answers take %i ms',
  async (answerMs) => {
    const { onStep, beats } = beatCounter(answerMs)
    keepers.run('keeper', { onStep, cadence: { ...keeperCadence, activeForMs: 0, heartbeatMs: neverMs } })
    const isLeftAlone = async () => {
      const before = beats()
      for (let look = 0; look < 100; look += 1) if (!(await keeperSleeps(admin))) return false
      return beats() === before
    }
    await eventually(async () => (await isLeftAlone()) && (await isAllClosed()))
    const before = beats()
    const frontier = await value('holdfast.draw()')
    await admin.query('select holdfast.request_closing($1, holdfast.wall_hlc())', [frontier])
    await eventually(async () => (await closed()) >= frontier)
    expect(beats()).toBeGreaterThan(before)
    await eventually(async () => (await isLeftAlone()) && (await isAllClosed()))
  },
)

test('a shard that is used is closed as rarely as may be; who waits for a timestamp does not wait for that', async () => {
  const { onStep, beats } = beatCounter()
  keepers.run('keeper', { onStep, cadence: { ...keeperCadence, activeForMs: neverMs, trailMs: neverMs } })
  await eventually(() => beats() > 0)
  const before = beats()
  for (let draw = 0; draw < 100; draw += 1) await value('holdfast.draw()')
  expect(beats()).toBe(before)
  for (let round = 0; round < 20; round += 1) {
    const frontier = await value('holdfast.draw()')
    await admin.query('select holdfast.request_closing($1, holdfast.wall_hlc())', [frontier])
    await eventually(async () => (await closed()) >= frontier)
  }
  const behind = beats()
  for (let draw = 0; draw < 100; draw += 1) await value('holdfast.draw()')
  expect(beats()).toBe(behind)
})

test('a transaction that finds the clock standing still wakes the keeper', async () => {
  keepers.run('keeper', { cadence: { ...keeperCadence, activeForMs: 0, heartbeatMs: neverMs } })
  await eventually(async () => (await keeperSleeps(admin)) && (await isAllClosed()))
  const woken = await value('holdfast.wake(holdfast.wall_hlc())')
  await eventually(async () => (await closed()) >= woken)
})

test('no wakeup is lost: whoever asks while the keeper goes to sleep has its timestamp closed', async () => {
  keepers.run('keeper', { cadence: { ...keeperCadence, activeForMs: 0, heartbeatMs: neverMs } })
  await eventually(() => electedKeeper(admin).then((elected) => elected !== undefined))
  for (let round = 0; round < 300; round += 1) {
    // The closing of one round is what the keeper goes to sleep behind when the next one asks.
    const frontier = await value('holdfast.draw()')
    await admin.query('select holdfast.request_closing($1, holdfast.wall_hlc())', [frontier])
    await eventually(async () => (await closed()) >= frontier)
  }
})

test('what is drawn behind the last beat, before the keeper sleeps, is closed although nobody asks for it', async () => {
  let drawn: Promise<bigint> | undefined
  const onStep: OnStep = async (step) => {
    if (step === 'closer own xid') await (drawn ??= value('holdfast.draw()'))
  }
  keepers.run('keeper', { onStep, cadence: { ...keeperCadence, activeForMs: 0, heartbeatMs: neverMs } })
  await eventually(() => drawn !== undefined)
  const frontier = present(await drawn, 'a draw')
  await eventually(async () => (await closed()) >= frontier)
})

test('C4: closings overlap: each waits for what was in progress when it began, and for nothing later', async () => {
  const where = { shard: payrollShard }
  const closer = new Closer(await connect(), {
    clock: systemClock,
    onStep: noStep,
    where,
    onBlocked: () => {},
    blockedAfterMs: neverMs,
  })
  const begin = async () => {
    const session = await connect()
    await session.query('begin')
    const { rows } = await session.query<{ stamp: string }>('select holdfast.draw() as stamp')
    return { stamp: BigInt(present(rows[0], 'a row').stamp), end: () => session.query('commit') }
  }
  const a = await begin()
  await closer.beat(true)
  const b = await begin()
  await closer.beat(true)
  const c = await begin()
  await closer.beat(true)
  expect(await closed()).toBeLessThan(a.stamp)

  await a.end()
  await closer.beat(false)
  expect(await closed()).toBeGreaterThanOrEqual(a.stamp)
  expect(await closed()).toBeLessThan(b.stamp)
  // The second closing began while the first was waiting, and before the third transaction.
  await b.end()
  await closer.beat(false)
  expect(await closed()).toBeGreaterThanOrEqual(b.stamp)
  expect(await closed()).toBeLessThan(c.stamp)
  await c.end()
  await closer.beat(false)
  expect(await closed()).toBeGreaterThanOrEqual(c.stamp)
})

test('HZ-C2: a beat reads the clock before it draws its xid: what is drawn in between is waited for', async () => {
  // Whoever reads the clock for a closing waits while the test holds the lock.
  await admin.script(`
    alter function holdfast.begin_closing(bigint) rename to begin_closing_at_once;
    create function holdfast.begin_closing(p_witness bigint, out seen bigint, out closing bigint, out wall bigint)
    language plpgsql as $$
    begin
      perform pg_advisory_xact_lock_shared(42);
      select b.seen, b.closing, b.wall into seen, closing, wall from holdfast.begin_closing_at_once(p_witness) b;
    end $$`)
  const own = await connect()
  const closer = new Closer(own, {
    clock: systemClock,
    onStep: noStep,
    where: { shard: payrollShard },
    onBlocked: () => {},
    blockedAfterMs: neverMs,
  })
  const session = await connect()
  try {
    await admin.query('select pg_advisory_lock(42)')
    const beat = closer.beat(true)
    await eventually(async () => {
      const waiting = 'select from pg_locks where pid = $1 and not granted'
      return (await admin.query(waiting, [own.serverProcessId])).rowCount > 0
    })
    await session.query('begin')
    const { rows } = await session.query<{ stamp: string }>('select holdfast.draw()::text as stamp')
    const stamp = BigInt(present(rows[0], 'a row').stamp)
    await admin.query('select pg_advisory_unlock(42)')
    await beat
    // What the first began is published here, were it not waited for.
    await closer.beat(false)
    expect(await closed()).toBeLessThan(stamp)
    await session.query('commit')
    while (closer.isWaiting) await closer.beat(false)
    expect(await closed()).toBeGreaterThanOrEqual(stamp)
  } finally {
    await admin.script(`
      drop function holdfast.begin_closing(bigint);
      alter function holdfast.begin_closing_at_once(bigint) rename to begin_closing`)
  }
})

test('HZ-C2: the xid of a closing is drawn after its timestamp: what drew below it in between is waited for', async () => {
  const where = { shard: payrollShard }
  const blocked = { onBlocked: () => {}, blockedAfterMs: neverMs }
  // Between the two statements of a beat another session draws, as one that was a moment earlier could have done.
  const own = await connect()
  const { rows } = await own.query<{ closing: string }>(
    'select closing from holdfast.begin_closing(holdfast.wall_hlc())',
  )
  const closing = BigInt(present(rows[0], 'a row').closing)
  const session = await connect()
  await session.query('begin')
  await session.query('select pg_current_xact_id()')
  const drawn = await own.query<{ xid: string; position: string }>(
    `select own::text as xid, position::text from holdfast.advance_closed('{}', '{}', '{}')`,
  )
  const published = await own.query<{ closed: string }>(
    'select closed from holdfast.advance_closed(array[$1::bigint], array[$2::text::xid8], array[$3::pg_lsn])',
    [closing, present(drawn.rows[0], 'a row').xid, present(drawn.rows[0], 'a row').position],
  )
  expect(BigInt(present(published.rows[0], 'a row').closed)).toBeLessThan(closing)
  await session.query('commit')
  const closer = new Closer(own, { clock: systemClock, onStep: noStep, where, ...blocked })
  for (await closer.beat(true); closer.isWaiting; await closer.beat(false));
  expect(await closed()).toBeGreaterThanOrEqual(closing)
})
