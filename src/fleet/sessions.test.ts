import { describe, expect, test } from 'vitest'
import {
  before,
  branch,
  demand,
  evidenceOf,
  frontierOn,
  historyNumber,
  hlc,
  lsn,
  payroll,
  requirementOf,
  transaction,
  treasury,
} from '../../test/support/session-values.ts'
import type { Epoch, ShardName } from '../directory/topology.ts'
import { emptyFrontier, joinFrontiers } from '../session/frontier.ts'
import { decide } from '../session/proof.ts'
import type { Committed, TouchedShard } from '../transaction/transaction.ts'
import { afterCommit } from './sessions.ts'

const at = (shard: ShardName) => ({ shard, historyId: historyNumber(1), epoch: 1 as Epoch, placementVersion: 1 })

function committed(number: number, position: number, more: Partial<Committed<null>> = {}): Committed<null> {
  const home: TouchedShard = { ...at(payroll), role: 'home', position: lsn(position) }
  const of = { transactionId: transaction(number), commitTimestamp: hlc(number * 10) }
  return { value: null, ...of, shards: [home], replayed: false, ...more }
}

/** As a replay tells of it: every participant may be unsettled, at no position. */
function overBoth(number: number, more: Partial<Committed<null>> = {}): Committed<null> {
  const pending = { transactionId: transaction(number), timestamp: hlc(number * 10) }
  const one = committed(number, number * 100, more)
  return { ...one, shards: [...one.shards, { ...at(treasury), role: 'participant', position: lsn(0), pending }] }
}

describe('S3, S11: what an idempotency key replays', () => {
  const first = afterCommit(emptyFrontier, committed(1, 100))
  const second = afterCommit(first, committed(2, 200))
  const between = evidenceOf({ visible: new Set([transaction(1)]), replayedBefore: before(150) })

  test('takes the place of nothing that came behind it', () => {
    const again = afterCommit(second, committed(1, 300, { replayed: true }))
    expect(decide(requirementOf(second), between).kind).toBe('behind')
    expect(decide(requirementOf(again), between).kind).toBe('behind')
    const both = evidenceOf({ visible: new Set([transaction(1), transaction(2)]), replayedBefore: before(250) })
    expect(decide(requirementOf(again), both).kind).toBe('proven')
  })

  test('takes the place of nothing that was read behind it', () => {
    const read = frontierOn(payroll, [demand(1, 200, { idsSuffice: false })], 30)
    const again = afterCommit(joinFrontiers(first, read), committed(1, 300, { replayed: true }))
    expect(decide(requirementOf(again), between).kind).toBe('behind')
  })

  test('is what a session without a token goes on with', () => {
    expect(afterCommit(emptyFrontier, committed(1, 100, { replayed: true }))).toEqual(first)
  })

  test('HZ-T3, S11: of a participant whose branch is not known to be there, the next read there is told', () => {
    const gone: TouchedShard = { ...at(treasury), role: 'participant', position: lsn(0) }
    const one = committed(1, 100, { replayed: true })
    const again = { ...one, shards: [...one.shards, gone] }
    const shows = evidenceOf({
      visible: new Set([1, 2].map(transaction)),
      replayedBefore: before(1_000),
      closedTimestamp: hlc(1_000),
    })
    for (const session of [emptyFrontier, afterCommit(emptyFrontier, overBoth(2))]) {
      const frontier = afterCommit(session, again)
      expect(decide(requirementOf(frontier, { shard: treasury }), shows).kind).toBe('history_changed')
      expect(decide(requirementOf(frontier), shows).kind).toBe('proven')
      // A transaction settles there what is decided, before it uses the shard.
      expect(frontier.shards.get(treasury)?.histories[0]?.pendingForgotten).toBe(true)
    }
  })

  test('settles no branch: of five, one is not named any more, and all are demanded', () => {
    const four = [2, 3, 4, 5].reduce((frontier, number) => afterCommit(frontier, overBoth(number)), emptyFrontier)
    const again = afterCommit(four, overBoth(1, { replayed: true }))
    expect(again.shards.get(treasury)?.histories[0]).toMatchObject({
      pending: [5, 4, 3, 2].map((number) => branch(number, number * 10)),
      pendingForgotten: true,
    })
    const withoutOne = evidenceOf({ visible: new Set([1, 2, 3, 4].map(transaction)), replayedBefore: before(1_000) })
    const verdict = decide(requirementOf(again, { shard: treasury }), withoutOne)
    expect(verdict.kind).toBe('behind')
  })
})
