import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { present } from '../../src/base/assert.ts'
import { systemClock } from '../../src/base/clock.ts'
import type { MetricName, Metrics } from '../../src/base/metrics.ts'
import type { RegionName } from '../../src/directory/topology.ts'
import { readTimeline } from '../../src/evidence/timeline-reader.ts'
import { hlcFromWallMs } from '../../src/hlc/hlc.ts'
import type { Connection } from '../../src/postgres/connection.ts'
import { sqlState } from '../../src/postgres/sqlstate.ts'
import { ClockKeepers, electedKeeper, wallOffBy } from '../support/clock-keepers.ts'
import { eventually } from '../support/eventually.ts'
import { payrollPlan, payrollShard, treasuryShard } from '../support/payroll-plan.ts'
import type { ReadingGateway } from '../support/reading-gateway.ts'
import { openReadingGateway } from '../support/reading-gateway.ts'
import { TestShards } from '../support/shards.ts'

/**
 * Wall clocks that jump, in both directions, of a database server and of gateways. The server's wall is a function of the
 * schema that the test replaces by one with an offset; a gateway's is what it is given.
 */

const primary = 'eu-west/payroll.1'
const offsetMs = 500
const hourMs = 3_600_000
const yearMs = 365 * 24 * hourMs
const us = 'us-east' as RegionName

let shards: TestShards
let admin: Connection
let keepers: ClockKeepers
let gateway: ReadingGateway
/** Every commit timestamp of a test in the order of the commits. */
let stamps: bigint[]
/** What was told last under a name, of whatever kind. */
let told: Map<MetricName, number>

const metrics: Metrics = {
  count: (name) => void told.set(name, (told.get(name) ?? 0) + 1),
  observe: (name, measured) => void told.set(name, measured),
  gauge: (name, measured) => void told.set(name, measured),
  forget: (name) => void told.delete(name),
}

beforeAll(async () => {
  // Followers, because a shard that is durable on one server takes no part in global transactions.
  shards = await TestShards.open(
    payrollPlan([
      { name: payrollShard, followers: ['eu-west'] },
      { name: treasuryShard, followers: ['us-east'] },
    ]),
  )
  admin = await shards.connect(primary)
  await admin.script(`
    create table public.wall_offset (ms bigint not null);
    insert into public.wall_offset values (0);
    grant select on public.wall_offset to public;
    create or replace function holdfast.wall_hlc() returns bigint language sql volatile
    set search_path = pg_catalog, pg_temp
    as $$ select (trunc(extract(epoch from clock_timestamp()) * 1000)::bigint + o.ms) << 16 from public.wall_offset o $$`)
  keepers = new ClockKeepers(shards)
})

beforeEach(async () => {
  stamps = []
  told = new Map()
  gateway = await openReadingGateway(shards, { metrics })
})

afterEach(async () => {
  await setServerWall(0)
  await keepers.stop()
  await gateway.close()
})

afterAll(async () => {
  admin?.release()
  await shards?.close()
})

const setServerWall = (ms: number) => admin.query('update public.wall_offset set ms = $1', [ms])
const now = () => hlcFromWallMs(systemClock.wallMs())
const ms = (count: number) => BigInt(count) << 16n

async function value(sql: string, values: readonly unknown[] = [], at = admin): Promise<bigint> {
  const { rows } = await at.query<{ value: string }>(`select (${sql})::bigint as value`, values)
  return BigInt(present(rows[0], 'a row').value)
}

const clockOf = (at: Connection) => value('select last_value from holdfast.hlc', [], at)
const clockNow = () => clockOf(admin)
const closed = () => value('select closed_timestamp from holdfast.closed')

let runs = 0

/** Commits at home, and over both shards when it is global. */
async function commit(isGlobal = false): Promise<bigint> {
  const run = `run-${(runs += 1)}`
  const { committed } = await gateway.write('globex-eu', async (tx) => {
    await tx.query('payroll', `insert into runs (tenant, id, status) values ('globex-eu', $1, 'open')`, [run])
    if (isGlobal) tx.batch('treasury', [[`insert into holds values ('globex-eu', $1, 1)`, [run]]])
  })
  stamps.push(committed.commitTimestamp)
  return committed.commitTimestamp
}

async function commitsAreClosed(): Promise<void> {
  const stamp = await commit()
  await eventually(async () => (await closed()) >= stamp)
}

function expectInOrder(): void {
  expect(stamps).toEqual([...stamps].sort((a, b) => (a < b ? -1 : 1)))
  expect(new Set(stamps).size).toBe(stamps.length)
}

describe("a server's wall", () => {
  test('C6: HZ-C6: a year ahead is not believed; commits go on at true time, and nothing of it is left', async () => {
    const disagreements: number[] = []
    keepers.run('keeper', { metrics, onDisagreement: (offset) => disagreements.push(offset) })
    await commitsAreClosed()
    await setServerWall(yearMs)
    await eventually(() => disagreements.length > 0)
    expect(Math.round(present(told.get('clock_offset_ms'), 'the metric') / yearMs)).toBe(1)
    for (let n = 0; n < 5; n += 1) await commitsAreClosed()
    await commit(true)
    expect(await clockNow()).toBeLessThan(now() + ms(2 * offsetMs))

    await setServerWall(0)
    await commitsAreClosed()
    const wall = now()
    await eventually(async () => (await clockNow()) >= wall)
    expectInOrder()
  })

  test('C6: what a shard far ahead stamped is refused, not adopted, however far ahead the server is too', async () => {
    const before = await clockNow()
    await setServerWall(yearMs)
    const ahead = now() + ms(yearMs)
    for (const call of ['observe', 'request_closing']) {
      await expect(value(`holdfast.${call}($1, $2)`, [ahead, now()])).rejects.toMatchObject({
        sqlState: sqlState.clockOffsetExceeded,
      })
    }
    expect(await clockNow()).toBe(before)
  })

  test('C2: an hour back leaves the clock where it is: stamps stay in order and are closed; it runs again by itself', async () => {
    keepers.run('keeper')
    await commitsAreClosed()
    await setServerWall(-hourMs)
    const before = await clockNow()
    for (let n = 0; n < 5; n += 1) await commitsAreClosed()
    // Far below a millisecond: the counter went on.
    expect((await clockNow()) - before).toBeLessThan(ms(offsetMs))

    const foreign = now() + ms(offsetMs) / 2n
    await expect(value('holdfast.observe($1, $2)', [foreign, now()])).rejects.toMatchObject({
      sqlState: sqlState.clockOffsetExceeded,
    })
    // HZ-P3: what is decided is settled all the same.
    const decided = now()
    expect(await value('holdfast.observe_decided($1, $2)', [decided, now()])).toBeGreaterThanOrEqual(decided)
    await commitsAreClosed()

    await setServerWall(0)
    await commitsAreClosed()
    const wall = now()
    await eventually(async () => (await clockNow()) >= wall)
    expect(await value('holdfast.observe($1, $2)', [now(), now()])).toBeGreaterThanOrEqual(wall)
    expectInOrder()
  })

  test('behind by less than the offset, what it adopts from other shards is told', async () => {
    keepers.run('treasury', { shard: treasuryShard, region: us })
    await setServerWall(-offsetMs / 2)
    await eventually(async () => {
      await commit(true)
      return told.has('clock_adopted_ms')
    })
    expect(told.get('clock_adopted_ms')).toBeLessThanOrEqual(offsetMs)
    expectInOrder()
  })

  test('V5: an hour back, the merged history ends at its clock, and holds what was committed before', async () => {
    keepers.run('keeper')
    keepers.run('treasury', { shard: treasuryShard, region: us })
    await commit(true)
    await setServerWall(-hourMs)
    await commit()
    const before = await clockNow()
    const treasury = await shards.connect('us-east/treasury.1')
    await eventually(async () => (await clockOf(treasury)) > before + ms(1))
    treasury.release()
    const told: bigint[] = []
    const sources = { environment: gateway.writing, archives: new Map() }
    for await (const { commitTimestamp } of readTimeline(sources)) told.push(commitTimestamp)
    expect(told).toEqual(expect.arrayContaining(stamps))
  })

  test('global commits are refused before the vote while it is far back, and go on by themselves', async () => {
    keepers.run('keeper')
    keepers.run('treasury', { shard: treasuryShard, region: us })
    await commit(true)
    await setServerWall(-hourMs)
    // The participant's clock goes on, so that it stamps above this home's, which stands still.
    const treasury = await shards.connect('us-east/treasury.1')
    await eventually(async () => (await clockOf(treasury)) > (await clockNow()) + ms(1))
    treasury.release()
    await expect(commit(true)).rejects.toMatchObject({ code: 'clock_offset_exceeded' })
    expect(told.get('clock_refused_total')).toBeGreaterThan(0)
    await setServerWall(0)
    await commit(true)
    expectInOrder()
  })
})

describe("a gateway's wall", () => {
  test('HZ-C6: a year ahead moves no clock, as keeper or as observer', async () => {
    keepers.run('wrong', { clock: wallOffBy(() => yearMs) })
    await commitsAreClosed()
    for (let n = 0; n < 5; n += 1) await commitsAreClosed()
    expect(await clockNow()).toBeLessThan(now() + ms(2 * offsetMs))
    const ahead = now() + ms(yearMs)
    await expect(value('holdfast.observe($1, $2)', [ahead, ahead])).rejects.toMatchObject({
      sqlState: sqlState.clockOffsetExceeded,
    })
    expectInOrder()
  })

  test('an hour back does not keep the clock once anyone else is there', async () => {
    keepers.run('wrong', { clock: wallOffBy(() => -hourMs) })
    await commitsAreClosed()
    keepers.run('right', { region: us })
    await eventually(async () => (await electedKeeper(admin))?.name === 'right')
    const wall = now()
    await eventually(async () => (await closed()) >= wall)
    expectInOrder()
  })

  test('alone and an hour back it keeps on: stamps stay in order and are closed, and it is right again by itself', async () => {
    let off = 0
    keepers.run('alone', { clock: wallOffBy(() => off) })
    await commitsAreClosed()
    off = -hourMs
    for (let n = 0; n < 5; n += 1) await commitsAreClosed()
    off = 0
    const wall = now()
    await eventually(async () => (await closed()) >= wall)
    await commitsAreClosed()
    expectInOrder()
  })
})
