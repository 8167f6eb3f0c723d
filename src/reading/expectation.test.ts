import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import {
  anyEvidence,
  anyFrontier,
  before,
  branch,
  demand,
  frontierOn,
  historyLine,
  historyNumber,
  hlc,
  lsn,
  payroll,
  transaction,
} from '../../test/support/session-values.ts'
import { currentHistory } from '../session/fork-point.ts'
import type { HistoryFrontier } from '../session/frontier.ts'
import type { Remembered } from './expectation.ts'
import { bearsOut, greatestOf, isExpected, remember, unbounded } from './expectation.ts'
import type { Demand } from './judgement.ts'
import { judge } from './judgement.ts'
import type { ProofRow } from './read-store.ts'

function proofOf(more: Partial<ProofRow> = {}): ProofRow {
  return {
    shard: payroll,
    follows: true,
    replayed: lsn(50),
    positionAfter: lsn(50),
    histories: historyLine(),
    placements: new Map(),
    visible: new Set(),
    closedTimestamp: hlc(0),
    greatestTimestamp: hlc(0),
    ...more,
  }
}

function demandFor(...histories: HistoryFrontier[]): Demand {
  const frontier = frontierOn(payroll, histories)
  return { shard: payroll, level: 'session', frontier, routed: undefined, closedAtLeast: undefined }
}

const remembered: Remembered = {
  replayed: lsn(50),
  through: lsn(40),
  greatest: hlc(900),
  follows: true,
  historyId: historyNumber(1),
  closedTimestamp: hlc(900),
}

/** A follower's life, as one of its processes sees it: how much is received, shown, and a moment later told as replayed. */
const some = fc.constantFrom(0, 0, 1, 9)
const moves = fc.record({ received: some, shown: some, replayed: some })
const lives = fc.array(fc.record({ before: moves, meanwhile: moves, asksInFull: fc.boolean() }), { maxLength: 30 })

test('S6, R6: what is remembered bounds every later snapshot from both sides', () => {
  fc.assert(
    fc.property(lives, fc.array(fc.nat(100), { minLength: 100, maxLength: 100 }), (steps, timestamps) => {
      // The commit at position n has the timestamp of that number: replay does not follow their order.
      const greatestThrough = (position: number) => Math.max(0, ...timestamps.slice(0, position))
      let known: Remembered | undefined
      const node = { received: 0, shown: 0, replayed: 0 }
      const move = (by: typeof node) => {
        node.received = Math.min(100, node.received + by.received)
        node.shown = Math.min(node.received, node.shown + by.shown)
        node.replayed = Math.min(node.shown, node.replayed + by.replayed)
      }
      for (const step of steps) {
        const position = known === undefined || step.asksInFull ? node.replayed : Number(known.replayed)
        move(step.before)
        const snapshot = node.shown
        expect(position).toBeLessThanOrEqual(snapshot)
        move(step.meanwhile)
        const bound = known ?? unbounded
        const isTold = lsn(node.received) > bound.through
        const proof = proofOf({
          replayed: lsn(node.replayed),
          positionAfter: lsn(node.received),
          greatestTimestamp: isTold ? hlc(greatestThrough(snapshot)) : undefined,
        })
        const greatest = greatestOf(proof, bound)
        expect(Number(greatest)).toBeGreaterThanOrEqual(greatestThrough(snapshot))
        known = remember(proof, before(position), greatest, known)
      }
    }),
    { numRuns: 3_000 },
  )
})

test('what a primary shows is told, whatever is remembered', () => {
  const silent = proofOf({ follows: false, positionAfter: lsn(10), greatestTimestamp: undefined })
  expect(() => greatestOf(silent, remembered)).toThrow('bounded')
  expect(() => greatestOf({ ...silent, follows: true, positionAfter: lsn(41) }, remembered)).toThrow('bounded')
  expect(greatestOf({ ...silent, follows: true }, remembered)).toBe(hlc(900))
})

describe('what is expected to be proven', () => {
  test.each<[string, Demand, Partial<Remembered>, boolean]>([
    ['nothing demanded', { ...demandFor(), frontier: { timestamp: hlc(9), shards: new Map() } }, {}, true],
    ['a position that was replayed', demandFor(demand(1, 50)), {}, true],
    ['a position that was not', demandFor(demand(1, 51)), {}, false],
    ['another history', demandFor(demand(2, 10)), {}, false],
    ['two histories', demandFor(demand(1, 10), demand(2, 10)), {}, false],
    ['a branch', demandFor(demand(1, 10, { pending: [branch(1, 5)] })), {}, false],
    ['branches without names', demandFor(demand(1, 10, { pendingForgotten: true })), {}, false],
    ['what a follower has shown, of a follower', demandFor(demand(1, 10, { seenTimestamp: hlc(999) })), {}, true],
    ['the same of a primary', demandFor(demand(1, 10, { seenTimestamp: hlc(999) })), { follows: false }, false],
    ['causal, not closed', { ...demandFor(demand(1, 10)), level: 'causal' }, {}, false],
    ['causal, closed', { ...demandFor(demand(1, 10)), level: 'causal' }, { closedTimestamp: hlc(1_000) }, true],
    ['an age, not closed', { ...demandFor(), closedAtLeast: hlc(901) }, {}, false],
  ])('%s', (_, asked, more, expected) => {
    expect(isExpected(asked, { ...remembered, ...more })).toBe(expected)
  })
})

test('R1: what a lean snapshot bears out is proven with all evidence as well', () => {
  const level = fc.constantFrom('session' as const, 'causal' as const)
  let borneOut = 0
  fc.assert(
    fc.property(anyFrontier, anyEvidence, level, (frontier, evidence, asked) => {
      const { histories, visible, closedTimestamp, replayedBefore: positionBefore, isPrimary } = evidence
      const question = { ...demandFor(), frontier, level: asked }
      const proof = proofOf({ histories, visible, closedTimestamp, follows: !isPrimary })
      const untold = histories.map((row) => ({ ...row, fork: row.fork && { ...row.fork, leftOut: [] } }))
      const lean = { positionBefore, proof: { ...proof, histories: untold, visible: new Set<never>() } }
      const known = currentHistory(histories)
      if (judge(question, known, lean).kind !== 'proven' || !bearsOut(question, lean)) return
      borneOut += 1
      expect(judge(question, known, { positionBefore, proof })).toEqual({ kind: 'proven' })
    }),
    { numRuns: 2_000 },
  )
  expect(borneOut).toBeGreaterThan(100)
})

test('a history that is no longer the newest is not borne out: what was left out is not told', () => {
  const rewritten = historyLine({ at: 20, leftOut: [transaction(1)] })
  const shown = { proof: proofOf({ histories: rewritten }), positionBefore: before(50) }
  expect(bearsOut(demandFor(demand(2, 10)), shown)).toBe(true)
  expect(bearsOut(demandFor(demand(1, 10)), shown)).toBe(false)
  expect(bearsOut(demandFor(demand(2, 10), demand(1, 10)), shown)).toBe(false)
})
