import fc from 'fast-check'
import { expect, test } from 'vitest'
import {
  anyEvidence,
  anyFrontier,
  branch,
  demand,
  frontierOn,
  hlc,
  lsn,
  payroll,
  requirementOf,
  shardNames,
  transaction,
  treasury,
} from '../../test/support/session-values.ts'
import type { Epoch } from '../directory/topology.ts'
import { emptyFrontier, type Frontier, joinFrontiers, pendingMax, withoutNames } from './frontier.ts'
import type { NodeEvidence, ReadLevel } from './proof.ts'
import { decide } from './proof.ts'

const joined = (a: ReturnType<typeof demand>, b: ReturnType<typeof demand>) =>
  joinFrontiers(frontierOn(payroll, [a]), frontierOn(payroll, [b])).shards.get(payroll)

test('S2: the join is commutative', () => {
  fc.assert(
    fc.property(anyFrontier, anyFrontier, (a, b) => {
      expect(joinFrontiers(a, b)).toEqual(joinFrontiers(b, a))
    }),
  )
})

test('S2: the join is associative', () => {
  fc.assert(
    fc.property(anyFrontier, anyFrontier, anyFrontier, (a, b, c) => {
      expect(joinFrontiers(joinFrontiers(a, b), c)).toEqual(joinFrontiers(a, joinFrontiers(b, c)))
    }),
  )
})

test('S2: the join is idempotent, and the empty frontier adds nothing', () => {
  fc.assert(
    fc.property(anyFrontier, anyFrontier, (a, b) => {
      expect(joinFrontiers(a, a)).toEqual(a)
      expect(joinFrontiers(a, emptyFrontier)).toEqual(a)
      expect(joinFrontiers(joinFrontiers(a, b), a)).toEqual(joinFrontiers(a, b))
    }),
  )
})

test("S11: a history is one entry, at whichever of its epochs it was met, and takes nobody else's place", () => {
  const [founding, later] = [demand(1, 10), { ...demand(1, 20), epoch: 2 as Epoch }]
  const one = joined(founding, later)
  expect(one).toMatchObject({ histories: [{ epoch: 2, position: lsn(20) }], historiesForgotten: false })
  const two = joinFrontiers(frontierOn(payroll, one?.histories ?? []), frontierOn(payroll, [demand(3, 5)]))
  expect(two.shards.get(payroll)).toMatchObject({ histories: [{ epoch: 3 }, { epoch: 2 }], historiesForgotten: false })
})

/** The position of a history covers the commits of its last ids: a cutover that went back no further left none of them out. */
function isPossible(frontier: Frontier, { histories }: NodeEvidence): boolean {
  const demands = [...frontier.shards.values()].flatMap((shard) => shard.histories)
  return demands.every(({ position, lastTransactionIds }) =>
    histories.every(({ fork }) => {
      if (fork === undefined || position > fork.lsn) return true
      return !lastTransactionIds.some((id) => fork.leftOut.includes(id))
    }),
  )
}

test('S2: evidence that proves the join proves both sides', () => {
  const levels = fc.constantFrom<ReadLevel>('session', 'causal', 'primary')
  const shard = fc.constantFrom(...shardNames)
  let proven = 0
  fc.assert(
    fc.property(anyFrontier, anyFrontier, anyEvidence, levels, shard, (a, b, evidence, level, on) => {
      fc.pre([a, b].every((frontier) => isPossible(frontier, evidence)))
      const verdict = (frontier: typeof a) => decide(requirementOf(frontier, { level, shard: on }), evidence).kind
      if (verdict(joinFrontiers(a, b)) !== 'proven') return
      proven += joinFrontiers(a, b).shards.has(on) ? 1 : 0
      expect([verdict(a), verdict(b)]).toEqual(['proven', 'proven'])
    }),
    { numRuns: 3_000 },
  )
  expect(proven).toBeGreaterThan(100)
})

/** Commits below every fork are in what came of it. */
function isInherited(frontier: Frontier, { histories, visible }: NodeEvidence): boolean {
  const demands = [...frontier.shards.values()].flatMap((shard) => shard.histories)
  return demands.every(({ epoch: at, position, lastTransactionIds }) => {
    const isBelow = histories.every(({ epoch, fork }) => epoch <= at || fork === undefined || position <= fork.lsn)
    return !isBelow || lastTransactionIds.every((id) => visible.has(id))
  })
}

test('S11: evidence that proves a frontier without its names proves it with them', () => {
  let proven = 0
  fc.assert(
    fc.property(anyFrontier, anyEvidence, fc.constantFrom(...shardNames), (frontier, evidence, on) => {
      fc.pre(isPossible(frontier, evidence) && isInherited(frontier, evidence))
      const verdict = (of: Frontier) => decide(requirementOf(of, { shard: on }), evidence).kind
      if (verdict(withoutNames(frontier)) !== 'proven') return
      proven += frontier.shards.has(on) ? 1 : 0
      expect(verdict(frontier)).toBe('proven')
    }),
    { numRuns: 10_000 },
  )
  expect(proven).toBeGreaterThan(100)
})

test('S2: entries of different shards stay apart, and the later timestamp stands', () => {
  const join = joinFrontiers(frontierOn(payroll, [demand(1, 10)], 5), frontierOn(treasury, [demand(3, 4)], 9))
  expect(join.timestamp).toBe(hlc(9))
  expect([...join.shards.keys()]).toEqual([payroll, treasury])
})

test('S7: last ids of concurrent commits all stay, because none implies another', () => {
  const a = demand(1, 100, { lastTransactionIds: [transaction(1)], idsSuffice: true })
  const b = demand(1, 120, { lastTransactionIds: [transaction(2)], idsSuffice: true })
  expect(joined(a, b)?.histories).toEqual([
    demand(1, 120, { lastTransactionIds: [transaction(1), transaction(2)], idsSuffice: true }),
  ])
})

test('S7: the ids of a session that has read stand for nothing more after the join', () => {
  const wrote = demand(1, 100, { lastTransactionIds: [transaction(1)], idsSuffice: true })
  const read = demand(1, 150, { idsSuffice: false })
  expect(joined(wrote, read)?.histories[0]?.idsSuffice).toBe(false)
})

test('S11: a last id that falls out takes the proof by ids with it', () => {
  const ids = [1, 2, 3, 4, 5].map(transaction)
  const a = demand(1, 100, { lastTransactionIds: ids.slice(0, 4), idsSuffice: true })
  const b = demand(1, 90, { lastTransactionIds: ids.slice(4), idsSuffice: true })
  expect(joined(a, b)?.histories).toEqual([demand(1, 100, { lastTransactionIds: ids.slice(1), idsSuffice: false })])
})

test('S11: a branch that falls out leaves a mark', () => {
  const a = demand(1, 10, { pending: [branch(4, 40), branch(3, 30)] })
  const b = demand(1, 10, { pending: [branch(5, 50), branch(2, 20), branch(1, 10)] })
  const [history] = joined(a, b)?.histories ?? []
  expect(history?.pending.map((pending) => pending.timestamp)).toEqual([50, 40, 30, 20].map(hlc))
  expect(history?.pending).toHaveLength(pendingMax)
  expect(history?.pendingForgotten).toBe(true)
})

test('S11: a join over a fork keeps both histories, the newer first', () => {
  const old = demand(1, 900, { lastTransactionIds: [transaction(1)], idsSuffice: true })
  const now = demand(2, 300, { lastTransactionIds: [transaction(2)], idsSuffice: true })
  expect(joined(old, now)?.histories).toEqual([now, old])
  expect(joined(old, now)?.historiesForgotten).toBe(false)
})

test('S11: a third history falls out and leaves a mark', () => {
  const three = [demand(1, 1), demand(2, 2), demand(3, 3)].map((history) => frontierOn(payroll, [history]))
  const shard = three.reduce(joinFrontiers).shards.get(payroll)
  expect(shard?.histories.map((history) => history.position)).toEqual([lsn(3), lsn(2)])
  expect(shard?.historiesForgotten).toBe(true)
})

test('the newest placement version of a shard stands', () => {
  const at = (placementVersion: number) => ({
    timestamp: hlc(1),
    shards: new Map([[payroll, { placementVersion, histories: [demand(1, 1)], historiesForgotten: false }]]),
  })
  expect(joinFrontiers(at(3), at(2)).shards.get(payroll)?.placementVersion).toBe(3)
})
