import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { approve, both, eager, gate, gatewayOf, insertRun, newRun, request } from '../../test/support/approval.ts'
import { bind } from '../../test/support/bind.ts'
import { DatabaseShards, home, tenant, treasury } from '../../test/support/database-shards.ts'
import { present } from '../base/assert.ts'
import { newTimeOrderedUuid } from '../base/random.ts'
import type { Epoch, ShardName } from '../directory/topology.ts'
import { Connection } from '../postgres/connection.ts'
import { sqlState } from '../postgres/sqlstate.ts'
import { explainInDoubt } from './in-doubt-explanation.ts'
import { Resolver } from './resolver.ts'
import { settleBranch } from './settlement.ts'
import { transact } from './transaction.ts'

/** Global commits among wrong walls: what is refused before the vote, what is adopted after it, and what never is. */

const ms = 65_536n
const yearMs = 365n * 86_400_000n

let shards: DatabaseShards

beforeEach(async () => {
  shards = await DatabaseShards.open()
})

afterEach(async () => {
  vi.useRealTimers()
  await shards.close()
})

/** The wall of one shard's server, so far off. */
async function setWall(shard: ShardName, offMs: number): Promise<void> {
  await shards.rows(
    shard,
    `create or replace function holdfast.wall_hlc() returns bigint language sql volatile
     as $$ select (trunc(extract(epoch from clock_timestamp()) * 1000)::bigint + ${offMs}) << 16 $$`,
  )
}

async function clockOf(shard: ShardName): Promise<bigint> {
  const [row] = await shards.rows<{ clock: string }>(shard, 'select last_value::text as clock from holdfast.hlc')
  return BigInt(present(row, 'a row').clock)
}

/** A transaction that is decided and not settled: its coordinator was killed. */
async function decided(run: string) {
  const stop = gate('global decision row')
  const { environment, kill } = await shards.gateway({ onStep: stop.onStep })
  const { transactionId, commitTimestamp } = await transact(environment, request(run), approve(run))
  await stop.reached
  await kill()
  await shards.rows(treasury, 'delete from holdfast.decision')
  return { transactionId, commitTimestamp }
}

test('C6: a server whose wall is an hour ahead does not take a home that is ahead for one that agrees', async () => {
  const environment = await gatewayOf(shards)
  await setWall(treasury, 3_600_000)
  // Far enough ahead to be so still when it is asked.
  await shards.rows(home, 'update holdfast.shard set max_clock_offset_ms = 60000')
  await shards.rows(home, 'select holdfast.observe(holdfast.wall_hlc() + (50000::bigint << 16), holdfast.wall_hlc())')
  await shards.rows(treasury, 'update holdfast.shard set max_clock_offset_ms = 50')
  const run = newRun()
  const refused = await transact(environment, request(run), approve(run)).catch((error: unknown) => error)
  expect(refused).toMatchObject({ code: 'clock_offset_exceeded', detail: { shard: treasury } })
  await environment.background.drain()
  expect(await both(shards, run)).toEqual([0, 0])
})

test('HZ-P3: a decided timestamp is settled although the wall of its participant is an hour behind', async () => {
  const run = newRun()
  const { transactionId, commitTimestamp } = await decided(run)
  const behind = commitTimestamp - 3_600_000n * ms
  await shards.rows(treasury, 'select setval($1, $2)', ['holdfast.hlc', behind])
  await setWall(treasury, -3_600_000)
  const settled = await settleBranch(await gatewayOf(shards), {
    branch: { home, transactionId, participant: treasury },
    homeEpoch: 1 as Epoch,
    decision: { outcome: 'COMMITTED', commitTimestamp },
  })
  expect(settled).toEqual({ kind: 'settled' })
  expect(await clockOf(treasury)).toBeGreaterThanOrEqual(commitTimestamp)
})

test('HZ-C6: S1: a record that no home can have written moves no clock; its branch is told of, and settled once it is right', async () => {
  const run = newRun()
  const { transactionId, commitTimestamp } = await decided(run)
  const record = (timestamp: bigint) =>
    shards.rows(home, 'update holdfast.transaction_record set commit_timestamp = $2 where transaction_id = $1', [
      transactionId,
      timestamp,
    ])
  await record(commitTimestamp + yearMs * ms)
  const before = await clockOf(treasury)
  const told: string[] = []
  const resolver = new Resolver({
    environment: await gatewayOf(shards),
    limits: eager,
    onStuck: (_, why) => told.push(why),
  })
  for (let pass = 0; pass < 2; pass += 1) {
    const why = expect.stringMatching(/more than 1500 ms ahead of every wall clock/) as string
    expect(await resolver.resolveOnce(treasury)).toMatchObject([{ resolution: { kind: 'needs person', why } }])
  }
  expect(told.join()).toMatch(/ahead of every wall clock/)
  expect(await explainInDoubt(await gatewayOf(shards), eager)).toMatchObject([
    {
      verdict: 'needs a person',
      record: 'COMMITTED',
      why: expect.stringMatching(
        /later than any home decides that keeps to the offset\. The commit log of .* put the record right there/,
      ) as string,
    },
  ])
  expect(await shards.prepared(treasury)).toHaveLength(1)
  expect(await both(shards, run)).toEqual([1, 0])
  expect(await shards.rows(treasury, 'select from holdfast.decision')).toEqual([])
  expect(await clockOf(treasury)).toBe(before)

  await record(commitTimestamp)
  expect(await resolver.resolveOnce(treasury)).toMatchObject([{ resolution: { kind: 'settled' } }])
  expect(await both(shards, run)).toEqual([1, 1])
})

describe('birth', () => {
  test('a gateway whose wall is a year ahead commits on one shard, and not over several: its ids would outlast collection', async () => {
    const environment = await gatewayOf(shards)
    vi.useFakeTimers({ toFake: ['Date'], now: Date.now() + Number(yearMs) })
    const [alone, over] = [newRun(), newRun()]
    await transact(environment, request(alone), (tx) => tx.query('payroll', insertRun, [tenant, alone]))
    await expect(transact(environment, request(over), approve(over))).rejects.toMatchObject({
      code: 'clock_offset_exceeded',
      message: expect.stringMatching(/was born \d+ ms ahead of the clock of this shard/) as string,
      detail: { shard: treasury },
    })
    await environment.background.drain()
    expect(await shards.prepared(treasury)).toEqual([])
    expect(await both(shards, over)).toEqual([0, 0])
    vi.useRealTimers()
    await transact(environment, request(over), approve(over))
  })

  test.each([
    ['within the offset, is stamped', 400, undefined],
    ['further, is not', 1_500, sqlState.clockOffsetExceeded],
  ])('a decision over several shards that was born ahead, %s', async (_, aheadMs, refused) => {
    const direct = await Connection.connect(shards.target(home, 'holdfast_gateway'), 5_000)
    const bornMs = Date.now() + aheadMs
    const born = bornMs.toString(16).padStart(12, '0')
    const id = `${born.slice(0, 8)}-${born.slice(8)}${newTimeOrderedUuid().slice(13)}`
    try {
      const outcomes = await direct.flight([
        { text: 'begin' },
        bind(tenant, id),
        {
          text: `select holdfast.stamp($1, $2, 1, null, 'a', 's', 'x', '{"payroll": 1}', array[$3], 0, null, '[]')`,
          values: [id, tenant, treasury],
        },
        { text: 'rollback' },
      ])
      expect(outcomes[2]).toMatchObject(refused === undefined ? { ok: true } : { error: { sqlState: refused } })
    } finally {
      direct.release()
    }
  })
})
