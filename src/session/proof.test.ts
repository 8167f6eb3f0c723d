import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import {
  anyEvidence,
  anyFrontier,
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
  shardNames,
  transaction,
  treasury,
} from '../../test/support/session-values.ts'
import { emptyFrontier } from './frontier.ts'
import type { NodeEvidence, ReadLevel, Verdict } from './proof.ts'
import { decide, evidenceQuestion, remedyFor, unexplainedShards } from './proof.ts'
import { lsnBeforeSnapshot } from './session.ts'

const [w1, w2] = [transaction(1), transaction(2)]
const wrote = demand(1, 100, { lastTransactionIds: [w1], idsSuffice: true })
const kindOf = (verdict: Verdict): string =>
  verdict.kind === 'behind' ? `behind: ${verdict.missing.what}` : verdict.kind

describe('the table: a session that wrote at position 100 and has a branch at timestamp 50', () => {
  const frontier = frontierOn(payroll, [{ ...wrote, pending: [branch(2, 50)] }], 60)
  const rows = ['current', 'forked after', 'forked before', 'not known'] as const
  const histories = {
    current: historyLine(),
    'forked after': historyLine({ at: 100 }),
    'forked before': historyLine({ at: 99 }),
    'not known': historyLine().map((row) => ({ ...row, historyId: historyNumber(9) })),
  }

  /** The same rules once more, as short as they can be said. */
  function expected(history: (typeof rows)[number], evidence: NodeEvidence, level: ReadLevel): string {
    const { isPrimary, placementVersion, replayedBefore, visible, closedTimestamp } = evidence
    if (level === 'primary' && !isPrimary) return 'not_primary'
    if (history === 'not known') return 'history_unknown'
    const older = history !== 'current'
    if (older && !visible.has(w1) && closedTimestamp >= 60n) return 'write_lost'
    if (older && !visible.has(w2) && closedTimestamp >= 50n) return 'write_lost'
    if (placementVersion !== 1) return 'placement_stale'
    if (!older && replayedBefore < 100n && !visible.has(w1)) return 'behind: position'
    if (older && !(visible.has(w1) && visible.has(w2))) return 'behind: transactions'
    if (!older && !visible.has(w2) && closedTimestamp < 50n) return 'behind: transactions'
    if (level === 'causal' && closedTimestamp < 60n) return 'behind: closed_timestamp'
    return 'proven'
  }

  const axes = {
    level: ['session', 'causal', 'primary'] as const,
    isPrimary: [false, true],
    placementVersion: [undefined, 1, 2],
    replayed: [99, 100],
    visible: [[], [w1], [w2], [w1, w2]],
    closed: [49, 50, 60],
  }

  for (const history of rows) {
    test(`S12: every combination of evidence, with the history ${history}`, () => {
      let combinations = 0
      for (const level of axes.level)
        for (const isPrimary of axes.isPrimary)
          for (const placementVersion of axes.placementVersion)
            for (const replayed of axes.replayed)
              for (const visible of axes.visible)
                for (const closed of axes.closed) {
                  const evidence: NodeEvidence = {
                    histories: histories[history],
                    isPrimary,
                    placementVersion,
                    replayedBefore: before(replayed),
                    visible: new Set(visible),
                    closedTimestamp: hlc(closed),
                  }
                  const verdict = decide(requirementOf(frontier, { level }), evidence)
                  expect({ ...evidence, level, kind: kindOf(verdict) }).toEqual({
                    ...evidence,
                    level,
                    kind: expected(history, evidence, level),
                  })
                  combinations += 1
                }
      expect(combinations).toBe(432)
    })
  }
})

describe('positions and ids', () => {
  const frontier = frontierOn(payroll, [wrote])

  test('HZ-T1: a replay position from inside the snapshot is refused as evidence', () => {
    const read = (readAt: number) => () => lsnBeforeSnapshot({ lsn: lsn(100), readAt, snapshotAt: 1 })
    expect(read(0)).not.toThrow()
    expect(read(1)).toThrow(/does not come before the snapshot/)
    expect(read(2)).toThrow(/does not come before the snapshot/)
  })

  test('S6: the position replayed before the snapshot proves, one byte less does not', () => {
    expect(decide(requirementOf(frontier), evidenceOf({ replayedBefore: before(100) })).kind).toBe('proven')
    expect(decide(requirementOf(frontier), evidenceOf({ replayedBefore: before(99) }))).toEqual({
      kind: 'behind',
      missing: { what: 'position', demanded: lsn(100), reached: lsn(99), lagBytes: 1n },
    })
  })

  test('HZ-X4: the position taken at the prepare proves no branch', () => {
    const prepared = demand(1, 100, { idsSuffice: true, pending: [branch(1, 50)] })
    const evidence = evidenceOf({ replayedBefore: before(100_000), isPrimary: true })
    expect(decide(requirementOf(frontierOn(payroll, [prepared])), evidence)).toEqual({
      kind: 'behind',
      missing: { what: 'transactions', transactionIds: [w1] },
    })
  })

  test('HZ-T5: of two branches on one shard the visible second does not prove the first', () => {
    const both = demand(1, 100, { pending: [branch(2, 60), branch(1, 50)] })
    const evidence = evidenceOf({ replayedBefore: before(100), visible: new Set([w2]), closedTimestamp: hlc(49) })
    expect(decide(requirementOf(frontierOn(payroll, [both])), evidence)).toEqual({
      kind: 'behind',
      missing: { what: 'transactions', transactionIds: [w1] },
    })
    const closed = { ...evidence, closedTimestamp: hlc(50) }
    expect(decide(requirementOf(frontierOn(payroll, [both])), closed).kind).toBe('proven')
  })

  test('HZ-T5: a visible last id does not prove an earlier branch', () => {
    const both = { ...wrote, lastTransactionIds: [w2], pending: [branch(1, 50)] }
    const evidence = evidenceOf({ replayedBefore: before(100), visible: new Set([w2]) })
    expect(kindOf(decide(requirementOf(frontierOn(payroll, [both])), evidence))).toBe('behind: transactions')
  })

  test('S7: the last id does not stand for what was read after it', () => {
    const read = frontierOn(payroll, [{ ...wrote, position: lsn(200), idsSuffice: false }])
    const evidence = evidenceOf({ replayedBefore: before(150), visible: new Set([w1]) })
    expect(kindOf(decide(requirementOf(read), evidence))).toBe('behind: position')
  })

  test('S7: of two concurrent last ids both must be visible', () => {
    const two = frontierOn(payroll, [{ ...wrote, lastTransactionIds: [w1, w2] }])
    const visible = (...ids: (typeof w1)[]) => kindOf(decide(requirementOf(two), evidenceOf({ visible: new Set(ids) })))
    expect([visible(w2), visible(w1, w2)]).toEqual(['behind: position', 'proven'])
  })

  test('S9: a primary proves what a follower has shown by its closed timestamp alone', () => {
    const shown = frontierOn(payroll, [demand(1, 100, { seenTimestamp: hlc(70) })])
    const at = (isPrimary: boolean, closed: number) =>
      kindOf(
        decide(
          requirementOf(shown),
          evidenceOf({ isPrimary, replayedBefore: before(500), closedTimestamp: hlc(closed) }),
        ),
      )
    expect([at(true, 69), at(true, 70), at(false, 69)]).toEqual(['behind: closed_timestamp', 'proven', 'proven'])
  })

  test('S11: branches that fell out of the list are proven by the closed timestamp at the frontier', () => {
    const forgot = frontierOn(payroll, [{ ...wrote, pendingForgotten: true }], 90)
    const at = (closed: number) =>
      kindOf(decide(requirementOf(forgot), evidenceOf({ replayedBefore: before(100), closedTimestamp: hlc(closed) })))
    expect([at(89), at(90)]).toEqual(['behind: closed_timestamp', 'proven'])
  })
})

describe('placement', () => {
  test('HZ-T6: a follower that is closed past the frontier proves nothing without the placement row', () => {
    const evidence = evidenceOf({
      placementVersion: undefined,
      replayedBefore: before(1_000),
      closedTimestamp: hlc(9_999),
    })
    const requirement = requirementOf(frontierOn(payroll, []), { level: 'causal', routedPlacementVersion: 2 })
    expect(decide(requirement, evidence)).toEqual({
      kind: 'placement_stale',
      late: 'node',
      routed: 2,
      found: undefined,
    })
    expect(decide(requirement, { ...evidence, placementVersion: 1 })).toMatchObject({ late: 'node' })
    expect(decide(requirement, { ...evidence, placementVersion: 2 }).kind).toBe('proven')
  })

  test('S5: a row that is newer than the route sends the read back to the directory', () => {
    const verdict = decide(requirementOf(emptyFrontier), evidenceOf({ placementVersion: 2 }))
    expect(verdict).toMatchObject({ kind: 'placement_stale', late: 'directory' })
    expect(remedyFor(verdict)).toBe('refresh_directory')
  })

  test('S5: a directory that cannot explain where the session was is behind it', () => {
    const frontier = {
      ...emptyFrontier,
      shards: new Map([
        [payroll, { placementVersion: 1, histories: [wrote], historiesForgotten: false }],
        [treasury, { placementVersion: 2, histories: [wrote], historiesForgotten: false }],
      ]),
    }
    const behind = [
      { shard: payroll, version: 1 },
      { shard: treasury, version: 1 },
    ]
    expect(unexplainedShards(frontier, behind)).toEqual([treasury])
    expect(unexplainedShards(frontier, [...behind, { shard: treasury, version: 2 }])).toEqual([])
  })
})

describe('levels', () => {
  test('HZ-T4: what happened before on another shard is proven by the closed timestamp, not by positions', () => {
    const elsewhere = frontierOn(treasury, [wrote], 500)
    const evidence = evidenceOf({ replayedBefore: before(1_000_000), closedTimestamp: hlc(499) })
    expect(decide(requirementOf(elsewhere, { level: 'session' }), evidence).kind).toBe('proven')
    expect(decide(requirementOf(elsewhere, { level: 'causal' }), evidence)).toEqual({
      kind: 'behind',
      missing: { what: 'closed_timestamp', demanded: hlc(500), reached: hlc(499), lagMs: 0 },
    })
    const closed = { ...evidence, closedTimestamp: hlc(500) }
    expect(decide(requirementOf(elsewhere, { level: 'causal' }), closed).kind).toBe('proven')
  })

  test('HZ-X3: the primary too must show the branch', () => {
    const prepared = frontierOn(payroll, [demand(1, 1, { idsSuffice: true, pending: [branch(1, 50)] })])
    const on = (visible: (typeof w1)[]) =>
      kindOf(
        decide(
          requirementOf(prepared, { level: 'primary' }),
          evidenceOf({ isPrimary: true, visible: new Set(visible) }),
        ),
      )
    expect([on([]), on([w1])]).toEqual(['behind: transactions', 'proven'])
  })

  test('without a token only the placement is asked for', () => {
    expect(decide(requirementOf(emptyFrontier), evidenceOf()).kind).toBe('proven')
  })
})

describe('the whole', () => {
  const everything: NodeEvidence = evidenceOf({
    isPrimary: true,
    replayedBefore: before(1_000),
    visible: new Set(Array.from({ length: 20 }, (_, number) => transaction(number))),
    closedTimestamp: hlc(1_000_000),
  })
  const ofOneHistory = anyFrontier.filter((frontier) =>
    [...frontier.shards.values()].every(({ histories }) => histories.every(({ epoch }) => epoch === 1)),
  )

  test('a node that has everything proves every frontier of its history', () => {
    fc.assert(
      fc.property(ofOneHistory, fc.constantFrom(...shardNames), (frontier, shard) => {
        expect(decide(requirementOf(frontier, { level: 'causal', shard }), everything).kind).toBe('proven')
      }),
    )
  })

  test('a node that shows less never proves more', () => {
    fc.assert(
      fc.property(anyFrontier, anyEvidence, fc.integer({ min: 0, max: 4 }), (frontier, evidence, piece) => {
        const less: NodeEvidence[] = [
          { ...evidence, replayedBefore: before(0) },
          { ...evidence, visible: new Set() },
          { ...evidence, closedTimestamp: hlc(0) },
          { ...evidence, placementVersion: undefined },
          { ...evidence, histories: historyLine().map((row) => ({ ...row, historyId: historyNumber(99) })) },
        ]
        const requirement = requirementOf(frontier, { level: 'causal' })
        const reduced = less[piece] ?? evidence
        if (decide(requirement, evidence).kind !== 'proven') {
          expect(decide(requirement, reduced).kind).not.toBe('proven')
        }
      }),
      { numRuns: 2_000 },
    )
  })

  test('the question asks for every id that the decision looks up, once', () => {
    fc.assert(
      fc.property(anyFrontier, anyEvidence, (frontier, evidence) => {
        const asked = evidenceQuestion(frontier, payroll)
        expect(new Set(asked).size).toBe(asked.length)
        const answered = { ...evidence, visible: new Set(asked.filter((id) => evidence.visible.has(id))) }
        expect(decide(requirementOf(frontier), answered)).toEqual(decide(requirementOf(frontier), evidence))
      }),
    )
  })
})
