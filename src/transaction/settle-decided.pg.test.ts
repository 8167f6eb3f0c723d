import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { approve, gate, gatewayOf, insertRun, newRun, request } from '../../test/support/approval.ts'
import { DatabaseShards, home, tenant, treasury } from '../../test/support/database-shards.ts'
import type { OnStep } from '../base/step.ts'
import type { TransactionId } from '../directory/topology.ts'
import { ConnectionPools } from '../postgres/pools.ts'
import type { TargetOf, TransactionEnvironment } from './environment.ts'
import { pushBranch } from './in-doubt.ts'
import { settleDecided } from './settle-decided.ts'
import type { Tx } from './transaction.ts'
import { transact } from './transaction.ts'

let shards: DatabaseShards

beforeAll(async () => {
  shards = await DatabaseShards.open()
})

afterAll(async () => {
  await shards.close()
})

/** Leaves branches prepared behind their decision, as a coordinator does that ends there. */
const leave: OnStep = (step) =>
  step === 'global decision row' ? Promise.reject(new Error('left by the test')) : Promise.resolve()

async function leaveOne(leaving: TransactionEnvironment): Promise<TransactionId> {
  const run = newRun()
  const { transactionId } = await transact(leaving, request(run), approve(run))
  await leaving.background.drain()
  return transactionId
}

describe('S11: who knows of more branches than it names', () => {
  const countHolds = (run: string) => async (tx: Tx) =>
    (await tx.query('treasury', 'select 1 from holds where run = $1', [run])).rowCount

  test('finds everything that is decided there; what is not decided stays, and keeps nobody waiting', async () => {
    const stop = gate('global decision row')
    const slow = await gatewayOf(shards, { onStep: stop.onStep })
    const [told, undecided] = [newRun(), newRun()]
    await transact(slow, request(told), approve(told))
    await stop.reached
    const stay = gate('global record inserted')
    const late = await gatewayOf(shards, { onStep: stay.onStep })
    const committing = transact(late, request(undecided), approve(undecided))
    await stay.reached

    const environment = await gatewayOf(shards)
    expect((await transact(environment, request('look'), countHolds(told))).value).toBe(0)
    const looking = request('look', { pendingForgotten: [treasury] })
    expect((await transact(environment, looking, countHolds(told))).value).toBe(1)
    expect(await shards.prepared(treasury)).toHaveLength(1)
    stay.release()
    stop.release()
    await committing
    await late.background.drain()
    await slow.background.drain()
  })

  test('is refused where the home of one does not say whether it is decided', async () => {
    const stop = gate('global decision row')
    const { environment: slow, kill } = await shards.gateway({ onStep: stop.onStep })
    const run = newRun()
    await transact(slow, request(run), approve(run))
    await stop.reached
    await kill()
    const environment = await gatewayOf(shards)
    const known = shards.topology.current().shards.get(home)
    shards.replaceShard(home, { state: 'fenced' })
    await expect(settleDecided(environment, treasury, 0)).rejects.toMatchObject({
      code: 'node_unavailable',
      message: expect.stringContaining('is fenced'),
    })
    expect(await shards.prepared(treasury)).toHaveLength(1)
    shards.replaceShard(home, { state: known?.state ?? 'open' })
    await settleDecided(environment, treasury)
    expect(await shards.prepared(treasury)).toEqual([])
    await transact(
      environment,
      request('again'),
      async (tx) => void (await tx.query('payroll', insertRun, [tenant, newRun()])),
    )
  })
})

describe('a shard that does not answer', () => {
  test('is told as `node_unavailable`, to whoever writes there as to whoever reads', async () => {
    const environment = await gatewayOf(shards)
    const targetOf: TargetOf = (node) => ({
      ...environment.targetOf(node),
      ...(node.shard === treasury ? { port: 1 } : {}),
    })
    const told = { code: 'node_unavailable', retry: 'safe', detail: { shard: treasury } }
    await expect(settleDecided({ ...environment, targetOf }, treasury)).rejects.toMatchObject(told)
    const look = (tx: Tx) => tx.query('treasury', 'select 1 from holds')
    const looking = request('look', { pendingForgotten: [treasury] })
    await expect(transact({ ...environment, targetOf }, looking, look)).rejects.toMatchObject(told)
  })

  test('is not asked while it is fenced', async () => {
    const environment = await gatewayOf(shards)
    shards.replaceShard(treasury, { state: 'fenced' })
    const told = { code: 'shard_fenced', retry: 'safe', detail: { shard: treasury } }
    await expect(settleDecided(environment, treasury)).rejects.toMatchObject(told)
    shards.replaceShard(treasury, { state: 'open' })
    await settleDecided(environment, treasury)
  })

  test('R14: has as long to answer, and its queue to move, as its reader has left, and a second at least', async () => {
    const asked: unknown[] = []
    class Recording extends ConnectionPools {
      override flight(...[target, statements, ...limits]: Parameters<ConnectionPools['flight']>) {
        asked.push(limits)
        return super.flight(target, statements, ...limits)
      }
    }
    const pools = new Recording()
    try {
      const environment = { ...(await gatewayOf(shards)), pools }
      for (const leftMs of [0, 3_000, 60_000]) await settleDecided(environment, treasury, leftMs)
      expect(asked).toEqual([1_000, 3_000, environment.limits.serviceWithinMs].map((ms) => [ms, ms]))
    } finally {
      await pools.close()
    }
  })
})

test('S11: a branch whose decision is gone at home is a lost write, to whoever has it rolled back already', async () => {
  const transactionId = await leaveOne(await gatewayOf(shards, { onStep: leave }))
  for (const table of ['transaction_record', 'commit_log']) {
    await shards.rows(home, `delete from holdfast.${table} where transaction_id = $1`, [transactionId])
  }
  let looks = 0
  const looking = transact(
    await gatewayOf(shards),
    request('look', { pending: [{ shard: treasury, transactionId }] }),
    async (tx) => {
      await tx.query('treasury', 'select 1 from holds')
      looks += 1
    },
  )
  await expect(looking).rejects.toMatchObject({
    code: 'write_lost',
    retry: 'never',
    detail: { shard: treasury, transactionId },
  })
  expect([looks, await shards.prepared(treasury)]).toEqual([0, []])
})

describe('R7: what is decided on a shard', () => {
  test('is what was prepared before: those that come meanwhile keep nobody waiting', async () => {
    const [leaving, settling] = [await gatewayOf(shards, { onStep: leave }), await gatewayOf(shards)]
    let last = await leaveOne(leaving)
    let rounds = 0
    const onStep: OnStep = async (step) => {
      if (step !== 'resolver barrier') return
      rounds += 1
      await pushBranch(settling, treasury, last)
      last = await leaveOne(leaving)
      throw new Error('another settles it')
    }
    await settleDecided(await gatewayOf(shards, { onStep }), treasury)
    expect(rounds).toBe(1)
    expect(await shards.prepared(treasury)).toHaveLength(1)
    await settleDecided(settling, treasury)
    expect(await shards.prepared(treasury)).toEqual([])
  })

  test('is settled a few at a time, and all of it', async () => {
    const leaving = await gatewayOf(shards, { onStep: leave })
    for (let left = 0; left < 8; left += 1) await leaveOne(leaving)
    let underway = 0
    let most = 0
    const onStep: OnStep = (step) => {
      if (step === 'resolver barrier') most = Math.max(most, (underway += 1))
      if (step === 'resolver settle') underway -= 1
      return Promise.resolve()
    }
    await settleDecided(await gatewayOf(shards, { onStep }), treasury)
    expect(most).toBeLessThanOrEqual(3)
    expect(await shards.prepared(treasury)).toEqual([])
  })

  test('is told at once where only a person can settle it', async () => {
    const transactionId = await leaveOne(await gatewayOf(shards, { onStep: leave }))
    await shards.rows(
      treasury,
      `insert into holdfast.decision (transaction_id, outcome, commit_timestamp, home, home_epoch)
       values ($1, 'ABORTED', null, $2, 1)`,
      [transactionId, home],
    )
    let settled = 0
    const onStep: OnStep = (step) => {
      if (step === 'resolver settle') settled += 1
      return Promise.resolve()
    }
    const refused = settleDecided(await gatewayOf(shards, { onStep }), treasury)
    await expect(refused).rejects.toMatchObject({ code: 'node_unavailable' })
    expect(settled).toBe(1)
    await shards.rows(treasury, 'delete from holdfast.decision where transaction_id = $1', [transactionId])
    await settleDecided(await gatewayOf(shards), treasury)
  })

  test('is not waited for longer than was said', async () => {
    await leaveOne(await gatewayOf(shards, { onStep: leave }))
    const stay = gate('resolver barrier')
    const slow = await gatewayOf(shards, { onStep: stay.onStep })
    await expect(settleDecided(slow, treasury, 0)).rejects.toMatchObject({ code: 'node_unavailable' })
    await stay.reached
    expect(await shards.prepared(treasury)).toHaveLength(1)
    stay.release()
    await settleDecided(await gatewayOf(shards), treasury)
  })
})
