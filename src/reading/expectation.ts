import { assert } from '../base/assert.ts'
import type { HistoryId } from '../directory/topology.ts'
import type { Hlc } from '../hlc/hlc.ts'
import { hlcZero } from '../hlc/hlc.ts'
import type { Lsn } from '../postgres/lsn.ts'
import { lsnZero, maxLsn } from '../postgres/lsn.ts'
import { currentHistory } from '../session/fork-point.ts'
import type { HistoryFrontier } from '../session/frontier.ts'
import type { LsnBeforeSnapshot } from '../session/session.ts'
import type { Demand, Shown } from './judgement.ts'
import type { ProofRow } from './read-store.ts'

/**
 * What a server process has told of its node, and what follows from it for the snapshots that it takes afterwards. Pure.
 *
 * A node only moves on while its processes live: a server that starts again ends them. So a position that one of them has told
 * was read before every snapshot that it takes from then on, which is what S6 asks for; of another process it would prove
 * nothing. And a follower shows at most what it has received: while that is at or before a position which an earlier snapshot
 * of the process contained, it shows no timestamp that the earlier one did not.
 */
export interface Remembered {
  /** Of the process, told before any snapshot that it takes from now on. */
  readonly replayed: Lsn
  /** What is committed at or before `through` has no later timestamp than `greatest`. */
  readonly through: Lsn
  readonly greatest: Hlc
  /** As they were then. They only choose how to ask. */
  readonly follows: boolean
  readonly historyId: HistoryId
  readonly closedTimestamp: Hlc
}

/** Of a process that has told nothing: no snapshot is bounded by it. */
export const unbounded: Pick<Remembered, 'through' | 'greatest'> = { through: lsnZero, greatest: hlcZero }

/** The greatest timestamp that a snapshot shows, or an upper bound where it was not asked for. */
export function greatestOf(proof: ProofRow, { through, greatest }: Pick<Remembered, 'through' | 'greatest'>): Hlc {
  if (proof.greatestTimestamp !== undefined) return proof.greatestTimestamp
  assert(proof.follows && proof.positionAfter <= through, 'a timestamp that is not told is bounded')
  return greatest
}

/** What is remembered once a snapshot was taken behind `positionBefore`. */
export function remember(
  proof: ProofRow,
  positionBefore: LsnBeforeSnapshot,
  greatest: Hlc,
  before: Remembered | undefined,
): Remembered {
  // The snapshot contains everything up to the position before it, and nothing later than its greatest timestamp.
  const bound = before !== undefined && before.through > positionBefore ? before : { through: positionBefore, greatest }
  return {
    replayed: maxLsn(proof.replayed, before?.replayed ?? lsnZero),
    through: bound.through,
    greatest: bound.greatest,
    follows: proof.follows,
    historyId: currentHistory(proof.histories).historyId,
    closedTimestamp: proof.closedTimestamp,
  }
}

/**
 * Whether what is remembered satisfies a demand, so that the next snapshot is asked for less and gives its evidence and the
 * caller's answer at once. A guess: a snapshot that does not bear it out is judged by `bearsOut`, and asked for in full.
 */
export function isExpected(demand: Demand, remembered: Remembered): boolean {
  const { frontier, shard, level, closedAtLeast } = demand
  const demanded = frontier.shards.get(shard)
  const { closedTimestamp } = remembered
  if (level === 'causal' && closedTimestamp < frontier.timestamp) return false
  if (closedAtLeast !== undefined && closedTimestamp < closedAtLeast) return false
  if (demanded === undefined) return true
  return !demanded.historiesForgotten && demanded.histories.every((history) => isExpectedOf(history, remembered))
}

function isExpectedOf(
  history: HistoryFrontier,
  { historyId, replayed, follows, closedTimestamp }: Remembered,
): boolean {
  const { seenTimestamp: seen } = history
  return (
    history.historyId === historyId &&
    history.position <= replayed &&
    history.pending.length === 0 &&
    !history.pendingForgotten &&
    (follows || seen === undefined || seen <= closedTimestamp)
  )
}

/**
 * Whether a snapshot that was not asked which transactions it shows, and what was left out, may be believed where it proves:
 * where all that is demanded is of its newest history, of which nothing is left out.
 */
export function bearsOut({ frontier, shard }: Demand, { proof }: Shown): boolean {
  const { historyId } = currentHistory(proof.histories)
  const histories = frontier.shards.get(shard)?.histories ?? []
  return histories.every((history) => history.historyId === historyId)
}
