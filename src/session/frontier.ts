import { assert } from '../base/assert.ts'
import type { Epoch, HistoryId, ShardName, TransactionId } from '../directory/topology.ts'
import type { Hlc } from '../hlc/hlc.ts'
import { hlcZero, maxHlc } from '../hlc/hlc.ts'
import type { Lsn } from '../postgres/lsn.ts'
import { maxLsn } from '../postgres/lsn.ts'

/**
 * What a session must not be shown less than: the content of a token.
 *
 * A frontier is a set of demands on the node that answers. The join of two frontiers demands what both demand. It is
 * commutative, associative and idempotent, and it only grows (S2). Every list in it is bounded, because it travels
 * with each request. What falls out of a list leaves a mark behind, and the mark makes the proof stricter: a frontier
 * may forget a name, never a demand (S11).
 *
 * Demands on one shard are kept per history, since positions of two histories do not compare. Older histories stay
 * until a node has proven them; then the session goes on with the history of that node alone.
 */
export interface Frontier {
  /** Nothing that the session has seen, on any shard, is later. At least every timestamp inside. */
  readonly timestamp: Hlc
  readonly shards: ReadonlyMap<ShardName, ShardFrontier>
}

export interface ShardFrontier {
  /** The newest placement version that the session met on this shard. */
  readonly placementVersion: number
  /** Newest first, one to `historiesMax`. */
  readonly histories: readonly HistoryFrontier[]
  /** Demands of an older history fell out, or a branch is in no history that is known; the session has to be told. */
  readonly historiesForgotten: boolean
}

/** What the session knows of one history of one shard. */
export interface HistoryFrontier {
  readonly historyId: HistoryId
  /**
   * The epoch at which the history was opened, or a later one of the same history: a shard takes up a new epoch without another
   * history when its release changes, and when a cutover keeps it. Who commits knows the shard's, who reads the history's.
   */
  readonly epoch: Epoch
  /** Everything that the session has seen here, its unsettled branches aside, was committed at or before this position. */
  readonly position: Lsn
  /**
   * Own commits that no other own commit is known to imply: one, unless tokens of concurrent transactions were
   * joined. Ascending, up to `lastIdsMax`.
   */
  readonly lastTransactionIds: readonly TransactionId[]
  /**
   * Whoever shows the last ids shows everything up to the position. False once the session has read: what it was
   * shown may have been committed after its last own commit (S7).
   */
  readonly idsSuffice: boolean
  /**
   * The greatest commit timestamp that a follower showed above its closed timestamp: commits that the primary may
   * not show yet (S9).
   */
  readonly seenTimestamp: Hlc | undefined
  /** Own branches not yet seen settled, newest first, up to `pendingMax`. */
  readonly pending: readonly PendingBranch[]
  /** More branches are pending than are listed; none of them is later than the frontier's timestamp. */
  readonly pendingForgotten: boolean
}

export interface PendingBranch {
  readonly transactionId: TransactionId
  /** The commit timestamp of the decision. */
  readonly timestamp: Hlc
}

/** Beyond this the write path settles a branch before it answers: each costs up to 16 bytes in every later request. */
export const pendingMax = 4
/** Tokens of so many concurrent transactions join without losing the name of one. */
export const lastIdsMax = 4
/** The history at hand, and the one before it: a session that meets two changes without a read in between is told. */
export const historiesMax = 2

export const emptyFrontier: Frontier = { timestamp: hlcZero, shards: new Map() }

/** The least frontier that demands what `a` and `b` demand (S2). */
export function joinFrontiers(a: Frontier, b: Frontier): Frontier {
  const shards = new Map(a.shards)
  for (const [shard, theirs] of b.shards) {
    const ours = shards.get(shard)
    shards.set(shard, ours === undefined ? theirs : joinShards(ours, theirs))
  }
  return { timestamp: maxHlc(a.timestamp, b.timestamp), shards }
}

function joinShards(a: ShardFrontier, b: ShardFrontier): ShardFrontier {
  const joined = joinHistories([...a.histories, ...b.histories])
  return {
    placementVersion: Math.max(a.placementVersion, b.placementVersion),
    histories: joined.histories,
    historiesForgotten: a.historiesForgotten || b.historiesForgotten || joined.forgotten,
  }
}

/** One entry a history, newest first. Of more than `historiesMax` the oldest are forgotten. */
export function joinHistories(all: readonly HistoryFrontier[]): {
  readonly histories: readonly HistoryFrontier[]
  readonly forgotten: boolean
} {
  const byHistory = new Map<HistoryId, HistoryFrontier>()
  for (const history of all) {
    const known = byHistory.get(history.historyId)
    byHistory.set(history.historyId, known === undefined ? history : joinSameHistory(known, history))
  }
  const newestFirst = [...byHistory.values()].toSorted(
    (a, b) => b.epoch - a.epoch || compareText(b.historyId, a.historyId),
  )
  return { histories: newestFirst.slice(0, historiesMax), forgotten: newestFirst.length > historiesMax }
}

/** Two demands on one history. Concurrent last ids all stay: none of them implies another. */
export function joinSameHistory(a: HistoryFrontier, b: HistoryFrontier): HistoryFrontier {
  assert(a.historyId === b.historyId, 'positions of two histories do not compare')
  const ids = [...new Set([...a.lastTransactionIds, ...b.lastTransactionIds])].toSorted(compareText)
  const pending = joinPending(a.pending, b.pending)
  return {
    historyId: a.historyId,
    epoch: a.epoch >= b.epoch ? a.epoch : b.epoch,
    position: maxLsn(a.position, b.position),
    lastTransactionIds: ids.slice(-lastIdsMax),
    idsSuffice: a.idsSuffice && b.idsSuffice && ids.length <= lastIdsMax,
    seenTimestamp: laterOf(a.seenTimestamp, b.seenTimestamp),
    pending: pending.slice(0, pendingMax),
    pendingForgotten: a.pendingForgotten || b.pendingForgotten || pending.length > pendingMax,
  }
}

function joinPending(a: readonly PendingBranch[], b: readonly PendingBranch[]): PendingBranch[] {
  // A transaction has one commit timestamp, so either entry of an id is the entry.
  const byId = new Map([...a, ...b].map((branch) => [branch.transactionId, branch]))
  return [...byId.values()].toSorted(
    (x, y) =>
      (x.timestamp < y.timestamp ? 1 : x.timestamp > y.timestamp ? -1 : 0) ||
      compareText(y.transactionId, x.transactionId),
  )
}

/** The same demands in the fewest bytes. What a loss would be told of has no name any more, and is told as a change (S11). */
export function withoutNames({ timestamp, shards }: Frontier): Frontier {
  const unnamed = ({ histories, ...shard }: ShardFrontier): ShardFrontier => ({
    ...shard,
    histories: histories.map((history) => ({
      ...history,
      lastTransactionIds: [],
      idsSuffice: false,
      pending: [],
      pendingForgotten: history.pendingForgotten || history.pending.length > 0,
    })),
  })
  return { timestamp, shards: new Map([...shards].map(([name, shard]) => [name, unnamed(shard)])) }
}

/** Every transaction id that a history of the frontier names. */
export function transactionIdsOf(history: HistoryFrontier): TransactionId[] {
  return [...new Set([...history.lastTransactionIds, ...history.pending.map((branch) => branch.transactionId)])]
}

export function laterOf(a: Hlc | undefined, b: Hlc | undefined): Hlc | undefined {
  if (a === undefined) return b
  return b === undefined ? a : maxHlc(a, b)
}

/** By code units, so that every gateway sorts the same. */
function compareText(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0
}
