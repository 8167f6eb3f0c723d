import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import {
  approve,
  both,
  eager,
  gate,
  gatewayOf,
  insertHold,
  insertRun,
  newRun,
  request,
} from '../../test/support/approval.ts'
import { everything, presumedAborted } from '../../test/support/collection.ts'
import { DatabaseShards, home, tenant, treasury } from '../../test/support/database-shards.ts'
import { eventually } from '../../test/support/eventually.ts'
import { newTimeOrderedUuid } from '../base/random.ts'
import type { StepName } from '../base/step.ts'
import type { TransactionId } from '../directory/topology.ts'
import { toLsn } from '../postgres/lsn.ts'
import { sqlState } from '../postgres/sqlstate.ts'
import { Connection } from '../postgres/connection.ts'
import type { CollectionOptions } from './collector.ts'
import { collectWhileElected } from './collector-term.ts'
import { collectionLimitsDefault, collectOnce } from './collector.ts'
import type { TransactionEnvironment } from './environment.ts'
import { lookUpOutcome } from './outcome.ts'
import { Resolver } from './resolver.ts'
import { transact } from './transaction.ts'

let shards: DatabaseShards

beforeEach(async () => {
  shards = await DatabaseShards.open()
})

afterEach(async () => {
  await shards.close()
})

async function approved(environment: TransactionEnvironment, run = newRun()): Promise<TransactionId> {
  const { transactionId } = await transact(environment, request(run), approve(run))
  await environment.background.drain()
  return transactionId
}

const outcomes = async () =>
  (await shards.rows<{ outcome: string }>(home, 'select outcome from holdfast.transaction_record order by 1')).map(
    ({ outcome }) => outcome,
  )

const watermark = async () =>
  Number((await shards.rows<{ ms: string }>(home, 'select collected_through_ms as ms from holdfast.shard'))[0]?.ms)

/** Who does not wait for long for a home that is open, and what it leaves then. */
const impatient = { ...everything, limits: { ...collectionLimitsDefault, drainWithinMs: 50, pollMs: 5 } }
const homeIsOpen = {
  removed: 0,
  left: [{ why: `${home}: transactions that were open have not ended`, needsPerson: false }],
}

describe('records', () => {
  test('that are settled are collected, and what happened is told as before', async () => {
    const environment = await gatewayOf(shards)
    const id = await approved(environment)
    await presumedAborted(shards)
    expect(await outcomes()).toEqual(['ABORTED', 'COMMITTED'])
    expect(await collectOnce(environment, home, everything)).toMatchObject({ removed: 2, left: [], isLastPage: true })
    expect(await outcomes()).toEqual([])
    expect(await watermark()).toBeGreaterThan(Number.parseInt(id.replaceAll('-', '').slice(0, 12), 16))
    expect(await lookUpOutcome(environment, id)).toMatchObject({ outcome: 'committed', participants: [treasury] })
    expect(await shards.rows(treasury, 'select from holdfast.branch where transaction_id = $1', [id])).toHaveLength(1)
    expect(await collectOnce(environment, home, everything)).toMatchObject({ removed: 0, left: [] })
    // And the next one is decided as ever.
    await approved(environment)
    expect(await outcomes()).toEqual(['COMMITTED'])
  })

  test('K5: that are younger than the restore window stay, however old the id that a gateway gave', async () => {
    const environment = await gatewayOf(shards)
    await approved(environment)
    const bornAnHourAgo = (Date.now() - 3_700_000).toString(16).padStart(12, '0')
    await shards.rows(
      home,
      'update holdfast.transaction_record set transaction_id = overlay($1 placing $2 from 1)::uuid',
      ['000000000000700080000000000000ab', bornAnHourAgo],
    )
    await shards.rows(treasury, 'update holdfast.branch set transaction_id = overlay($1 placing $2 from 1)::uuid', [
      '000000000000700080000000000000ab',
      bornAnHourAgo,
    ])
    const hourly = { ...everything, windowMs: 3_600_000 }
    expect(await collectOnce(environment, home, hourly)).toMatchObject({ removed: 0 })
    await shards.rows(home, `update holdfast.transaction_record set recorded_at = recorded_at - interval '1 hour'`)
    expect(await collectOnce(environment, home, hourly)).toMatchObject({ removed: 1 })
  })

  test('that are younger than the restore window stay', async () => {
    const environment = await gatewayOf(shards)
    await approved(environment)
    expect(await collectOnce(environment, home, { ...everything, windowMs: 3_600_000 })).toMatchObject({ removed: 0 })
    expect(await outcomes()).toEqual(['COMMITTED'])
    expect(await watermark()).toBe(0)
  })

  test('of a page are collected, the last of it with the next', async () => {
    const environment = await gatewayOf(shards)
    for (let count = 0; count < 3; count += 1) await approved(environment)
    const limits = { ...collectionLimitsDefault, pageMax: 2 }
    expect(await collectOnce(environment, home, { ...everything, limits })).toMatchObject({
      removed: 1,
      isLastPage: false,
    })
    expect(await collectOnce(environment, home, everything)).toMatchObject({ removed: 2, isLastPage: true })
  })

  test('K1: are removed only below the watermark', async () => {
    const environment = await gatewayOf(shards)
    const id = await approved(environment)
    const [removal] = await shards.rows<{ removed: number }>(
      home,
      'select holdfast.collect_records(array[$1]::uuid[], 1) as removed',
      [id],
    )
    expect(removal?.removed).toBe(0)
    expect(await outcomes()).toEqual(['COMMITTED'])
  })

  test('K2: stay while a branch that is older is prepared', async () => {
    const stop = gate('global record inserted')
    const slow = await gatewayOf(shards, { onStep: stop.onStep })
    const run = newRun()
    const outcome = transact(slow, request(run), approve(run))
    await stop.reached
    const environment = await gatewayOf(shards)
    await approved(environment)
    expect(await collectOnce(environment, home, everything)).toMatchObject({
      removed: 0,
      left: [{ needsPerson: false }],
    })
    expect(await watermark()).toBe(0)
    stop.release()
    await outcome
    await slow.background.drain()
    expect(await both(shards, run)).toEqual([1, 1])
    expect(await collectOnce(environment, home, everything)).toMatchObject({ removed: 2 })
  })

  test('K1: HZ-X2: are made for nothing that was born below the watermark, by a coordinator or by who presumes an abort', async () => {
    const stop = gate('global record inserted')
    const slow = await gatewayOf(shards, { onStep: stop.onStep })
    const run = newRun()
    const transactionId = newTimeOrderedUuid() as TransactionId
    const outcome = transact(slow, request(run, { transactionId }), approve(run))
    outcome.catch(() => undefined)
    await stop.reached
    await shards.rows(home, 'select holdfast.raise_collection(holdfast.transaction_born_ms($1) + 1, 1)', [
      transactionId,
    ])
    const presumed = shards.rows(home, `select holdfast.abort_unless_recorded($1, '{}', 1, '')`, [transactionId])
    await expect(presumed).rejects.toMatchObject({ sqlState: sqlState.belowCollection })
    stop.release()
    await expect(outcome).rejects.toMatchObject({
      code: 'transaction_aborted',
      detail: { sqlState: sqlState.belowCollection, shard: home },
    })
    await slow.background.drain()
    expect(await outcomes()).toEqual([])
    expect(await both(shards, run)).toEqual([0, 0])
  })

  test('K1: HZ-X2: stay while a home is open whose snapshot is older than the watermark: it decided anew what was ABORTED', async () => {
    const stop = gate('global prepare acknowledged')
    const slow = await gatewayOf(shards, { onStep: stop.onStep })
    const run = newRun()
    const once = { transactionId: newTimeOrderedUuid() as TransactionId, isolation: 'repeatable read' } as const
    const outcome = transact(slow, request(run, once), approve(run))
    outcome.catch(() => undefined)
    await stop.reached
    const environment = await gatewayOf(shards)
    await new Resolver({ environment, limits: eager }).resolveOnce(treasury)
    expect(await outcomes()).toEqual(['ABORTED'])
    expect(await collectOnce(environment, home, impatient)).toMatchObject(homeIsOpen)
    expect(await outcomes()).toEqual(['ABORTED'])
    stop.release()
    await expect(outcome).rejects.toMatchObject({ code: 'serialization_failure' })
    await slow.background.drain()
    expect(await collectOnce(environment, home, everything)).toMatchObject({ removed: 1, left: [] })
    expect(await both(shards, run)).toEqual([0, 0])
  })

  test('K2: a coordinator that slept prepares nothing below the watermark any more', async () => {
    const stop = gate('global branch opened')
    const slow = await gatewayOf(shards, { onStep: stop.onStep })
    const run = newRun()
    const once = { transactionId: newTimeOrderedUuid() as TransactionId }
    const outcome = transact(slow, request(run, once), approve(run))
    outcome.catch(() => undefined)
    await stop.reached
    const environment = await gatewayOf(shards)
    await approved(environment)
    expect(await collectOnce(environment, home, impatient)).toMatchObject(homeIsOpen)
    stop.release()
    await expect(outcome).rejects.toMatchObject({
      code: 'transaction_aborted',
      detail: { sqlState: 'HF009', shard: treasury },
    })
    await slow.background.drain()
    expect(await shards.prepared(treasury)).toEqual([])
    expect(await both(shards, run)).toEqual([0, 0])
  })

  test('K2: stay while a transaction is open at a participant that may not have seen the announcement', async () => {
    const slow = await gatewayOf(shards)
    const run = newRun()
    let release = () => {}
    let reach = () => {}
    const reached = new Promise<void>((resolve) => (reach = resolve))
    const held = new Promise<void>((resolve) => (release = resolve))
    const outcome = transact(slow, { ...request(run), isolation: 'repeatable read' }, async (tx) => {
      await tx.query('payroll', insertRun, [tenant, run])
      await tx.query('treasury', insertHold, [tenant, run])
      reach()
      await held
    })
    await reached
    const environment = await gatewayOf(shards)
    await approved(environment)
    const impatient = { ...everything, limits: { ...collectionLimitsDefault, drainWithinMs: 0 } }
    expect(await collectOnce(environment, home, impatient)).toMatchObject({
      removed: 0,
      left: [{ needsPerson: false }],
    })
    expect(await watermark()).toBe(0)
    // Its snapshot is older than the announcement, so it is prepared, and home lets it commit.
    release()
    await outcome
    await slow.background.drain()
    expect(await both(shards, run)).toEqual([1, 1])
  })

  test('K3: stay where a decision is not carried out, for a person', async () => {
    const environment = await gatewayOf(shards)
    const id = await approved(environment)
    await shards.rows(treasury, 'delete from holdfast.branch where transaction_id = $1', [id])
    const { left, removed } = await collectOnce(environment, home, everything)
    expect({ left, removed }).toEqual({ removed: 0, left: [{ needsPerson: true, why: expect.stringContaining(id) }] })
    expect(await outcomes()).toEqual(['COMMITTED'])
  })

  test('K4: stay until the archive of every shard has come that far, on the same timeline', async () => {
    const environment = await gatewayOf(shards)
    await approved(environment)
    const end = toLsn(0xffff_ffff_ffff_ffffn)
    const archived = (through: Awaited<ReturnType<CollectionOptions['archivedThrough']>>) =>
      collectOnce(environment, home, {
        ...everything,
        archivedThrough: ({ name }) => Promise.resolve(name === treasury ? through : 'no archive'),
      })
    const behind = { removed: 0, left: [{ why: `${treasury}: its archive has not come this far` }] }
    expect(await archived(undefined)).toMatchObject(behind)
    expect(await archived({ timeline: 1, lsn: toLsn(1n) })).toMatchObject(behind)
    expect(await archived({ timeline: 2, lsn: end })).toMatchObject(behind)
    expect(await archived({ timeline: 1, lsn: end })).toMatchObject({ removed: 1, left: [] })
  })

  test('stay while a participant does not answer', async () => {
    const environment = await gatewayOf(shards)
    await approved(environment)
    const { primary } = shards.shard(treasury)
    shards.replaceShard(treasury, { primary: { ...primary, host: '127.0.0.1', port: 1 } })
    expect(await collectOnce(environment, home, everything)).toMatchObject({
      removed: 0,
      left: [{ needsPerson: false }],
    })
  })
})

describe('a collector that dies', () => {
  const steps: StepName[] = ['collector announced', 'collector watermark raised', 'global record collected']
  test.each(steps)('at "%s" leaves the rest to the next one, and twice is once', async (step) => {
    const first = await gatewayOf(shards)
    const id = await approved(first)
    await presumedAborted(shards)
    const stop = gate(step)
    const dying = await shards.gateway({ onStep: stop.onStep })
    collectOnce(dying.environment, home, everything).catch(() => undefined)
    await stop.reached
    await dying.kill()
    const environment = await gatewayOf(shards)
    await collectOnce(environment, home, everything)
    expect(await outcomes()).toEqual([])
    expect(await collectOnce(environment, home, everything)).toMatchObject({ removed: 0, left: [] })
    expect(await lookUpOutcome(environment, id)).toMatchObject({ outcome: 'committed' })
    await approved(environment)
  })
})

test('who is elected on a shard collects its records by itself', async () => {
  const environment = await gatewayOf(shards)
  await approved(environment)
  const stop = new AbortController()
  const collection = { ...everything, onUncollected: () => {} }
  const resolvers = [await gatewayOf(shards), await gatewayOf(shards)].map(
    (one) => new Resolver({ environment: one, limits: eager, collection }),
  )
  const running = resolvers.map((resolver) => resolver.run(stop.signal))
  await eventually(async () => (await outcomes()).length === 0)
  stop.abort()
  await Promise.all(running)
})

test.each([home, treasury])(
  'K1, K2: transactions on %s that overlap for ever keep no record longer than those that were found first',
  async (shard) => {
    const environment = await gatewayOf(shards)
    await approved(environment)
    const first = await Connection.connect(shards.target(shard), 10_000)
    const second = await Connection.connect(shards.target(shard), 10_000)
    await first.script('begin')
    const stop = new AbortController()
    let told = 0
    const options = { ...impatient, limits: { ...impatient.limits, everyMs: 20 } }
    const collecting = collectWhileElected(environment, home, options, () => void told++, stop.signal)
    const kept = () => shards.rows<{ id: string }>(home, 'select transaction_id as id from holdfast.transaction_record')
    try {
      await eventually(() => told > 0)
      // Each for longer than a pass, and somebody at every moment. Another record grows old, which they would wait for as well.
      await second.script('begin')
      const id = await approved(environment)
      const before = told
      await eventually(() => told > before + 1)
      await first.script('commit')
      await eventually(async () => (await kept()).length === 1)
      expect(await kept()).toEqual([{ id }])
    } finally {
      first.destroy()
      second.destroy()
      stop.abort()
      await collecting
    }
  },
)
