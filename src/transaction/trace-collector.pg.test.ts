import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { approve, both, eager, gate, gatewayOf, newRun, request } from '../../test/support/approval.ts'
import { everything, presumedAborted } from '../../test/support/collection.ts'
import { DatabaseShards, home, treasury } from '../../test/support/database-shards.ts'
import { eventually } from '../../test/support/eventually.ts'
import { ShiftedClock } from '../../test/support/shifted-clock.ts'
import { systemClock } from '../base/clock.ts'
import { newTimeOrderedUuid } from '../base/random.ts'
import type { TransactionId } from '../directory/topology.ts'
import { sqlState } from '../postgres/sqlstate.ts'
import { collectionLimitsDefault, collectOnce } from './collector.ts'
import type { TransactionEnvironment } from './environment.ts'
import { Resolver } from './resolver.ts'
import { collectDecisions, collectKeys } from './trace-collector.ts'
import { transact } from './transaction.ts'

let shards: DatabaseShards

beforeEach(async () => {
  shards = await DatabaseShards.open()
})

afterEach(async () => {
  await shards.close()
})

/** Keys of three seconds ago are old: that is more than a busy machine takes from a stamp to the look at it. */
const short = { ...everything, windowMs: 3_000 }
const untilOld = () => systemClock.sleep(3_700)

async function approved(environment: TransactionEnvironment, run: string, key?: string) {
  const more = key === undefined ? {} : { idempotencyKey: key }
  const committed = await transact(environment, request(run, more), approve(run))
  await environment.background.drain()
  return committed
}

/** An id whose first 48 bits say so. */
const bornAt = (ms: number) => {
  const born = ms.toString(16).padStart(12, '0')
  return `${born.slice(0, 8)}-${born.slice(8)}${newTimeOrderedUuid().slice(13)}` as TransactionId
}

/** Who waits for another transaction's end, in this database. */
const waiting = `
  select from pg_locks w join pg_stat_activity a using (pid)
  where w.locktype = 'transactionid' and not w.granted and a.datname = current_database()`

const decisions = async () =>
  (await shards.rows<{ outcome: string }>(treasury, 'select outcome from holdfast.decision order by 1')).map(
    ({ outcome }) => outcome,
  )

const keys = async () =>
  (await shards.rows<{ key: string }>(home, 'select key from holdfast.idempotency order by 1')).map(({ key }) => key)

describe('K7: decisions', () => {
  test('ABORTED go once their records have, those of committed branches stay', async () => {
    const environment = await gatewayOf(shards)
    await approved(environment, newRun())
    await presumedAborted(shards)
    expect(await decisions()).toEqual(['ABORTED', 'COMMITTED'])
    expect(await collectDecisions(environment, home, everything)).toEqual({ removed: 0, left: [] })

    expect(await collectOnce(environment, home, everything)).toMatchObject({ removed: 2 })
    await presumedAborted(shards)
    expect(await decisions()).toEqual(['ABORTED', 'ABORTED', 'COMMITTED'])
    // The one behind the watermark: the younger one has its record.
    expect(await collectDecisions(environment, home, everything)).toEqual({ removed: 1, left: [] })
    expect(await decisions()).toEqual(['ABORTED', 'COMMITTED'])
    expect(await collectDecisions(environment, home, everything)).toEqual({ removed: 0, left: [] })
    expect(await shards.rows(home, 'select from holdfast.transaction_record')).toHaveLength(1)
  })

  test('stay at a participant that was not told, whatever it is asked', async () => {
    await presumedAborted(shards)
    const [removal] = await shards.rows<{ removed: number }>(
      treasury,
      'select holdfast.collect_decisions($1, 1, (2 ^ 47)::bigint, 10) as removed',
      [home],
    )
    expect(removal?.removed).toBe(0)
    expect(await decisions()).toEqual(['ABORTED'])
  })

  test('stay where a shard does not answer, which is told, and go when it does', async () => {
    const environment = await gatewayOf(shards)
    await presumedAborted(shards)
    await collectOnce(environment, home, everything)
    const { primary } = shards.shard(treasury)
    shards.replaceShard(treasury, { primary: { ...primary, host: '127.0.0.1', port: 1 } })
    expect(await collectDecisions(environment, home, everything)).toMatchObject({
      removed: 0,
      left: [{ needsPerson: false }],
    })
    shards.replaceShard(treasury, { primary })
    expect(await collectDecisions(environment, home, everything)).toEqual({ removed: 1, left: [] })
  })

  test('of a home that was deposed are not taken by it', async () => {
    await presumedAborted(shards)
    await shards.rows(treasury, 'update holdfast.peer set epoch = 2 where shard = $1', [home])
    await expect(
      shards.rows(treasury, 'select holdfast.collect_decisions($1, 1, (2 ^ 47)::bigint, 10)', [home]),
    ).rejects.toMatchObject({ sqlState: sqlState.epochOlder })
  })
})

describe('K8: a key', () => {
  test('that is younger than the retention stays, and a retry runs nothing', async () => {
    const environment = await gatewayOf(shards)
    const run = newRun()
    const { transactionId } = await approved(environment, run, 'k')
    expect(await collectKeys(environment, home, { ...everything, windowMs: 3_600_000 })).toBe(0)
    expect(await approved(environment, run, 'k')).toMatchObject({ transactionId, replayed: true })
    expect(await both(shards, run)).toEqual([1, 1])
  })

  test('that is older goes, a page after the other, and the commit stays', async () => {
    const environment = await gatewayOf(shards)
    for (const key of ['a', 'b', 'c']) await approved(environment, newRun(), key)
    await untilOld()
    await approved(environment, newRun(), 'young')
    const limits = { ...collectionLimitsDefault, pageMax: 2 }
    expect(await collectKeys(environment, home, { ...short, limits })).toBe(3)
    expect(await keys()).toEqual(['young'])
    expect(await shards.rows(home, 'select from holdfast.commit_log')).toHaveLength(4)
    expect(await approved(environment, newRun(), 'a')).toMatchObject({ replayed: false })
  })

  test('is as old as its stamp, not as its claim', async () => {
    const environment = await gatewayOf(shards)
    const run = newRun()
    await transact(environment, request(run, { idempotencyKey: 'k' }), async (tx) => {
      await approve(run)(tx)
      await untilOld()
    })
    await environment.background.drain()
    expect(await collectKeys(environment, home, short)).toBe(0)
    expect(await keys()).toEqual(['k'])
  })

  test('is not old because one clock says so', async () => {
    const environment = await gatewayOf(shards)
    await approved(environment, newRun(), 'k')
    const year = 365 * 86_400_000
    const ahead = { ...environment, clock: { ...systemClock, wallMs: () => systemClock.wallMs() + year } }
    expect(await collectKeys(ahead, home, { ...everything, windowMs: 3_600_000 })).toBe(0)
    expect(await keys()).toEqual(['k'])
  })

  test('is not claimed by who slept since before it was used: the request does not run a second time', async () => {
    const stop = gate('local begin')
    const slow = await gatewayOf(shards, { onStep: stop.onStep })
    const run = newRun()
    const slept = transact(slow, request(run, { idempotencyKey: 'k' }), approve(run))
    slept.catch(() => undefined)
    await stop.reached
    const environment = await gatewayOf(shards)
    const again = newRun()
    await approved(environment, again, 'k')
    await untilOld()
    expect(await collectKeys(environment, home, short)).toBe(1)
    stop.release()
    await expect(slept).rejects.toMatchObject({ code: 'idempotency_expired' })
    expect(await both(shards, run)).toEqual([0, 0])
    expect(await keys()).toEqual([])
  })

  test('is not claimed under a younger id by who slept between two attempts', async () => {
    await shards.rows(
      home,
      `create function unserializable() returns void language plpgsql as 'begin raise serialization_failure; end'`,
    )
    const clock = new ShiftedClock()
    const environment = await gatewayOf(shards, { clock })
    const run = newRun()
    const slept = transact(environment, request(run, { idempotencyKey: 'k' }), async (tx) => {
      clock.shiftMs = 3_600_000
      await tx.query('payroll', 'select unserializable()')
    })
    await expect(slept).rejects.toMatchObject({ code: 'idempotency_expired', detail: { key: 'k' } })
    expect(await keys()).toEqual([])
  })

  test('is not claimed under an id that was born behind the look at the age, and who tried it is told of', async () => {
    const clock = new ShiftedClock()
    const looks: number[] = []
    const pausing = {
      ...systemClock,
      wallMs: () => {
        looks.push(systemClock.wallMs())
        if (looks.length === 2) {
          clock.shiftMs = 3_600_000
          // An id that is born behind this look is told from one that was before it.
          while (systemClock.wallMs() < (looks[1] ?? 0) + 20);
        }
        return clock.wallMs()
      },
    }
    const environment = await gatewayOf(shards, { clock: pausing })
    const run = newRun()
    const slept = transact(environment, request(run, { idempotencyKey: 'k' }), approve(run))
    await expect(slept).rejects.toMatchObject({ code: 'idempotency_expired', detail: { key: 'k' } })
    await environment.background.drain()
    const tried = await shards.rows<{ transactionId: string }>(
      home,
      `select transaction_id as "transactionId" from holdfast.attempt where subject = $1 and code = 'idempotency_expired'`,
      [run],
    )
    expect(tried).toHaveLength(1)
    const bornMs = Number.parseInt((tried[0]?.transactionId ?? '').replaceAll('-', '').slice(0, 12), 16)
    expect(bornMs).toBeLessThanOrEqual(looks[1] ?? 0)
    expect(await keys()).toEqual([])
  })

  test.each(['read committed', 'repeatable read', 'serializable'] as const)(
    'is not claimed by who slept, and waits for the collector that removes it (%s)',
    async (isolation) => {
      const environment = await gatewayOf(shards)
      await approved(environment, newRun(), 'k')
      await untilOld()
      await shards.rows(home, 'begin')
      const collect = `select holdfast.collect_keys($1, 3000, 10, 1) as count`
      expect(await shards.rows(home, collect, [systemClock.wallMs()])).toEqual([{ count: 1 }])

      const run = newRun()
      const transactionId = bornAt(systemClock.wallMs() - 3_600_000)
      const slept = transact(environment, request(run, { idempotencyKey: 'k', transactionId, isolation }), approve(run))
      slept.catch(() => undefined)
      await eventually(async () => (await shards.rows(home, waiting)).length === 1)
      await shards.rows(home, 'commit')
      await expect(slept).rejects.toMatchObject({ code: 'idempotency_expired' })
      expect(await both(shards, run)).toEqual([0, 0])
      expect(await keys()).toEqual([])
    },
  )

  test('is claimed below the watermark by nobody, also where a caller chose an old id', async () => {
    const transactionId = newTimeOrderedUuid() as TransactionId
    const environment = await gatewayOf(shards)
    await approved(environment, newRun(), 'k')
    await untilOld()
    await collectKeys(environment, home, short)
    const run = newRun()
    await expect(
      transact(environment, request(run, { idempotencyKey: 'l', transactionId }), approve(run)),
    ).rejects.toMatchObject({ code: 'idempotency_expired' })
    // Without a key there is nothing to know.
    await transact(environment, request(run, { transactionId }), async (tx) => {
      await tx.query('payroll', `select from runs`)
    })
  })
})

test('who is elected on a shard collects keys and decisions by itself', async () => {
  const environment = await gatewayOf(shards)
  await presumedAborted(shards)
  await approved(environment, newRun(), 'k')
  const stop = new AbortController()
  const limits = { ...collectionLimitsDefault, everyMs: 100 }
  const collection = { ...short, limits, onUncollected: () => {} }
  const running = new Resolver({ environment, limits: eager, collection }).run(stop.signal)
  await eventually(async () => (await keys()).length === 0 && !(await decisions()).includes('ABORTED'))
  stop.abort()
  await running
})
