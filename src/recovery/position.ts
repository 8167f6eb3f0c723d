import type { RedoTransaction } from '../archive/redo-transaction.ts'
import type { ShardName, TransactionId } from '../directory/topology.ts'
import type { Hlc } from '../hlc/hlc.ts'
import { compareCommits, hlcZero, toHlc } from '../hlc/hlc.ts'
import type { Lsn } from '../postgres/lsn.ts'

/**
 * The place of a commit in the one order of all shards: commit timestamp, ties by transaction id. A commit without a
 * stamp has its place right behind everything at the highest stamp before it in its shard's log; several of those
 * follow each other in log order. (Between two shards the order of such commits is fixed, and means nothing.)
 *
 * A commit that depends on another has a greater position: it drew its stamp while it held its locks, so above every
 * stamp that was in the log of the shard before. Cutting at a position is therefore causally closed.
 */
export type Position = StampedPosition | UnstampedPosition

interface StampedPosition {
  readonly kind: 'stamped'
  readonly timestamp: Hlc
  readonly transactionId: TransactionId
}

interface UnstampedPosition {
  readonly kind: 'unstamped'
  /** The highest stamp before it. */
  readonly timestamp: Hlc
  readonly shard: ShardName
  readonly lsn: Lsn
}

export function positionOf(transaction: Pick<RedoTransaction, 'identity' | 'shard' | 'commitLsn'>): Position {
  const { identity, shard, commitLsn } = transaction
  return identity.kind === 'home' || identity.kind === 'branch'
    ? { kind: 'stamped', timestamp: identity.commitTimestamp, transactionId: identity.transactionId }
    : { kind: 'unstamped', timestamp: identity.after, shard, lsn: commitLsn }
}

export function comparePositions(a: Position, b: Position): number {
  if (a.timestamp !== b.timestamp) return a.timestamp < b.timestamp ? -1 : 1
  if (a.kind === 'stamped') {
    if (b.kind === 'unstamped') return -1
    return compareCommits(
      { commitTimestamp: a.timestamp, transactionId: a.transactionId },
      { commitTimestamp: b.timestamp, transactionId: b.transactionId },
    )
  }
  if (b.kind === 'stamped') return 1
  if (a.shard !== b.shard) return a.shard < b.shard ? -1 : 1
  if (a.lsn === b.lsn) return 0
  return a.lsn < b.lsn ? -1 : 1
}

/** How far history goes: all positions, or those below one, the named one counted or not. */
export type Bound =
  /** All that the archives hold; for a restore up to a timestamp that is above all of an archive that does not go on. */
  | { readonly kind: 'end'; readonly through?: Hlc }
  | { readonly kind: 'position'; readonly position: Position; readonly inclusive: boolean }
  /** Everything stamped at or below. An unstamped commit behind the last of them is not in it. */
  | { readonly kind: 'timestamp'; readonly timestamp: Hlc }

export function isWithin(bound: Bound, position: Position): boolean {
  switch (bound.kind) {
    case 'end':
      return bound.through === undefined || isThrough(bound.through, position)
    case 'timestamp':
      return isThrough(bound.timestamp, position)
    case 'position': {
      const order = comparePositions(position, bound.position)
      return order < 0 || (bound.inclusive && order === 0)
    }
  }
}

function isThrough(timestamp: Hlc, position: Position): boolean {
  return position.kind === 'stamped' ? position.timestamp <= timestamp : position.timestamp < timestamp
}

/** The timestamp up to which the archives must be closed for the bound to be exact. */
export function timestampNeeded(bound: Bound): Hlc | undefined {
  switch (bound.kind) {
    case 'end':
      return undefined
    case 'timestamp':
      return bound.timestamp
    case 'position':
      return bound.position.timestamp
  }
}

/** Below it everything is within the bound; null where everything is. */
export function firstBeyond(bound: Bound): Hlc | null {
  return bound.kind === 'end' ? (bound.through ?? null) : (timestampNeeded(bound) ?? null)
}

/** The last timestamp of which everything is within the bound; undefined where it has no end. */
export function lastWithin(bound: Bound): Hlc | undefined {
  if (bound.kind !== 'position') return timestampNeeded(bound)
  const { timestamp } = bound.position
  // Others of the same timestamp may be on the other side. Before the first stamp there is none below.
  return timestamp === hlcZero ? hlcZero : toHlc(timestamp - 1n)
}
