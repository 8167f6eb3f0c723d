import { describe, expect, test } from 'vitest'
import {
  before,
  branch,
  demand,
  evidenceOf,
  frontierOn,
  historyLine,
  historyNumber,
  hlc,
  lsn,
  payroll,
  requirementOf,
  transaction,
} from '../../test/support/session-values.ts'
import type { Epoch } from '../directory/topology.ts'
import { standingOf } from './fork-point.ts'
import type { HistoryFrontier } from './frontier.ts'
import type { NodeEvidence } from './proof.ts'
import { decide, remedyFor } from './proof.ts'

const [w1, w2, other] = [transaction(1), transaction(2), transaction(9)]
const wrote = (position: number, more: Partial<HistoryFrontier> = {}) =>
  demand(1, position, { lastTransactionIds: [w1], idsSuffice: true, ...more })
const read = (position: number) => demand(1, position)

const judge = (histories: HistoryFrontier | HistoryFrontier[], evidence: Partial<NodeEvidence>) =>
  decide(requirementOf(frontierOn(payroll, [histories].flat())), evidenceOf(evidence))

describe('after a promotion that forked at position 100', () => {
  const histories = historyLine({ at: 100 })

  test('S4: a token at or before the fork is honoured, whatever the new position is', () => {
    expect(judge(wrote(100), { histories, visible: new Set([w1]), replayedBefore: before(0) }).kind).toBe('proven')
    expect(judge(read(100), { histories }).kind).toBe('proven')
  })

  test('S11: past the fork the ids decide, and one that is there is honoured', () => {
    expect(judge(wrote(150), { histories, visible: new Set([w1]) }).kind).toBe('proven')
  })

  test('S11: past the fork an id that is not there is told as lost, with its name', () => {
    const closedTimestamp = hlc(1_000)
    const both = wrote(150, { lastTransactionIds: [w1, w2] })
    const verdict = judge(both, { histories, closedTimestamp, visible: new Set([w2]) })
    expect(verdict).toMatchObject({ kind: 'write_lost', transactionIds: [w1], current: { epoch: 2 } })
    expect(remedyFor(verdict)).toBe('refuse')
  })

  test('S11: it is told only once its timestamp is closed, since its settlement may come again', () => {
    const closedTimestamp = hlc(999)
    const waits = { kind: 'behind', missing: { what: 'transactions', transactionIds: [w1] } }
    expect(judge(wrote(150), { histories, closedTimestamp })).toEqual(waits)
    expect(judge(wrote(150, { idsSuffice: false }), { histories, closedTimestamp })).toEqual(waits)
  })

  test('HZ-T3: the closed timestamp of the new history does not prove a lost write', () => {
    const far = { histories, replayedBefore: before(1_000_000), closedTimestamp: hlc(1_000_000) }
    expect(judge(wrote(150), far).kind).toBe('write_lost')
    const branchOnly = demand(1, 150, { idsSuffice: true, pending: [branch(1, 50)] })
    expect(judge(branchOnly, far)).toMatchObject({ kind: 'write_lost', transactionIds: [w1] })
  })

  test('S8: a branch that is still prepared in the new history is waited for', () => {
    const branchOnly = demand(1, 150, { idsSuffice: true, pending: [branch(1, 50)] })
    const verdict = judge(branchOnly, { histories, closedTimestamp: hlc(49) })
    expect(verdict).toEqual({ kind: 'behind', missing: { what: 'transactions', transactionIds: [w1] } })
  })

  test('S11: a session that has only read past the fork is told that history changed', () => {
    expect(judge(read(101), { histories })).toMatchObject({ kind: 'history_changed', demanded: { epoch: 1 } })
  })

  test('S11: so is one that has read past the fork after a write that survived', () => {
    const both = wrote(150, { idsSuffice: false })
    expect(judge(both, { histories, visible: new Set([w1]) }).kind).toBe('history_changed')
    expect(judge(both, { histories, closedTimestamp: hlc(1_000) }).kind).toBe('write_lost')
  })

  test('S9: a new primary shows everything up to the fork, so nothing waits for its closed timestamp', () => {
    const shown = demand(1, 100, { seenTimestamp: hlc(70) })
    expect(judge(shown, { histories, isPrimary: true }).kind).toBe('proven')
  })

  test('S4: a node that has not reached the history of the token is no proof of anything', () => {
    const verdict = judge(demand(2, 1), { replayedBefore: before(1_000), closedTimestamp: hlc(1_000) })
    expect(verdict).toMatchObject({ kind: 'history_unknown', demanded: { epoch: 2 }, current: { epoch: 1 } })
    expect(remedyFor(verdict)).toBe('reroute')
  })

  test('S4: two histories of one epoch do not judge each other', () => {
    const rival = { ...demand(2, 1), historyId: historyNumber(77) }
    expect(judge(rival, { histories }).kind).toBe('history_unknown')
  })
})

describe('after a cutover that forked at position 100 and left a transaction out', () => {
  const histories = historyLine({ at: 100, leftOut: [w2] })

  test('S11: a token from before the incident reads on', () => {
    expect(judge(wrote(100), { histories, visible: new Set([w1]) }).kind).toBe('proven')
  })

  test('S11: a later token is told what was left out, since it may have seen it', () => {
    expect(judge(wrote(150), { histories, visible: new Set([w1]) })).toMatchObject({
      kind: 'history_rewritten',
      leftOut: [w2],
      own: [],
    })
    expect(judge(read(150), { histories }).kind).toBe('history_rewritten')
  })

  test('S11: the token of a left-out transaction is told that it is its own', () => {
    const mine = wrote(150, { lastTransactionIds: [w2] })
    expect(judge(mine, { histories })).toMatchObject({ kind: 'history_rewritten', own: [w2] })
  })

  test('S11: a left-out branch is told even if it was prepared before the fork', () => {
    const mine = demand(1, 90, { idsSuffice: true, pending: [branch(2, 50)] })
    const verdict = judge(mine, { histories, closedTimestamp: hlc(1_000) })
    expect(verdict).toMatchObject({ kind: 'history_rewritten', own: [w2] })
  })
})

describe('lines of histories', () => {
  test('S4: a position counts only if no later fork lies before it', () => {
    const twice = historyLine({ at: 100 }, { at: 60 })
    const crossed = (position: number) => {
      const standing = standingOf(read(position), twice)
      return standing.kind === 'older' ? standing.crossed.map((row) => row.epoch) : standing.kind
    }
    expect([crossed(60), crossed(80), crossed(120)]).toEqual([[], [3], [3, 2]])
  })

  test('S11: a limb that a restore cut off is judged by ids alone', () => {
    const restored = [
      ...historyLine(),
      {
        historyId: historyNumber(3),
        epoch: 3 as Epoch,
        fork: { parent: historyNumber(1), lsn: lsn(10_000), leftOut: [] },
      },
    ]
    const onTheLimb = { ...wrote(5), historyId: historyNumber(2), epoch: 2 as Epoch }
    expect(judge(onTheLimb, { histories: restored, visible: new Set([w1]) }).kind).toBe('proven')
    expect(judge(onTheLimb, { histories: restored, visible: new Set([other]), closedTimestamp: hlc(1_000) }).kind).toBe(
      'write_lost',
    )
    const readThere = { ...onTheLimb, lastTransactionIds: [], idsSuffice: false }
    expect(judge(readThere, { histories: restored }).kind).toBe('history_changed')
  })

  test('S11: a joined token is judged for each of its histories', () => {
    const histories = historyLine({ at: 100 })
    const now = demand(2, 140, { lastTransactionIds: [w2], idsSuffice: true })
    const at = (visible: (typeof w1)[]) =>
      judge([now, wrote(150)], {
        histories,
        replayedBefore: before(140),
        visible: new Set(visible),
        closedTimestamp: hlc(1_000),
      }).kind
    expect([at([w1, w2]), at([w2])]).toEqual(['proven', 'write_lost'])
  })

  test('S11: a history that fell out of a token is told as changed', () => {
    const frontier = {
      timestamp: hlc(1),
      shards: new Map([[payroll, { placementVersion: 1, histories: [demand(2, 1)], historiesForgotten: true }]]),
    }
    const evidence = evidenceOf({ histories: historyLine({ at: 100 }), replayedBefore: before(500) })
    expect(decide(requirementOf(frontier), evidence).kind).toBe('history_changed')
  })
})
