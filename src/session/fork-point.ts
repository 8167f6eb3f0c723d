import { assert, present } from '../base/assert.ts'
import type { Epoch, HistoryId, TransactionId } from '../directory/topology.ts'
import type { Hlc } from '../hlc/hlc.ts'
import type { Lsn } from '../postgres/lsn.ts'
import type { HistoryFrontier } from './frontier.ts'
import { transactionIdsOf } from './frontier.ts'

/**
 * What becomes of a demand on an older history of a shard.
 *
 * A promotion or a cutover opens a new history that shares the log of its parent up to the fork point and nothing
 * after it. A demand at or before the fork is part of the new history. A demand past it can only be judged by its
 * transaction ids: a position of the old log means nothing on the new one, and the closed timestamp of the new history
 * passes the timestamp of a lost write like that of any other (HZ-T3). So here a branch is proven by its row alone, and
 * the closed timestamp tells the opposite: what it has passed and is not there is lost.
 */

/** A row of `holdfast.history`. */
export interface HistoryRow {
  readonly historyId: HistoryId
  readonly epoch: Epoch
  /** Where it left its parent; the founding history has none. */
  readonly fork: HistoryFork | undefined
}

export interface HistoryFork {
  readonly parent: HistoryId
  /** Every record that ends at or before this position of the parent is part of the new history. */
  readonly lsn: Lsn
  /**
   * The transactions that a cutover left out on purpose, those included that cutovers left out whose histories it went
   * back behind.
   */
  readonly leftOut: readonly TransactionId[]
}

/** What a snapshot shows, as far as a demand on an older history asks. */
export interface ShownBySnapshot {
  readonly histories: readonly HistoryRow[]
  readonly visible: ReadonlySet<TransactionId>
  readonly closedTimestamp: Hlc
}

export type ForkVerdict =
  /** The demand is from a history that this node has not reached, or that is not in its past: ask another node. */
  | { readonly kind: 'history_unknown'; readonly demanded: HistoryRef; readonly current: HistoryRef }
  | {
      readonly kind: 'history_rewritten'
      /** Everything that the cutovers since then left out. */
      readonly leftOut: readonly TransactionId[]
      /** Those of them that are the session's own. */
      readonly own: readonly TransactionId[]
      readonly current: HistoryRef
    }
  | { readonly kind: 'write_lost'; readonly transactionIds: readonly TransactionId[]; readonly current: HistoryRef }
  | { readonly kind: 'history_changed'; readonly demanded: HistoryRef; readonly current: HistoryRef }

export interface HistoryRef {
  readonly historyId: HistoryId
  readonly epoch: Epoch
}

/** Where a history stands, seen from a node. */
export type Standing =
  | { readonly kind: 'current' }
  /** The histories since then, and those of them that forked before the demanded position. */
  | { readonly kind: 'older'; readonly later: readonly HistoryRow[]; readonly crossed: readonly HistoryRow[] }
  | { readonly kind: 'unknown' }

/** The history that a snapshot belongs to: the newest whose row it shows. */
export function currentHistory(rows: readonly HistoryRow[]): HistoryRow {
  const newest = rows.reduce<HistoryRow | undefined>(
    (best, row) => (best === undefined || row.epoch > best.epoch ? row : best),
    undefined,
  )
  return present(newest, 'a shard has a history from its founding on')
}

export function standingOf(history: HistoryFrontier, rows: readonly HistoryRow[]): Standing {
  const line = lineOf(rows)
  const at = line.findIndex((row) => row.historyId === history.historyId)
  if (at === 0) return { kind: 'current' }
  if (at > 0) {
    const later = line.slice(0, at)
    return { kind: 'older', later, crossed: later.filter((row) => history.position > forkOf(row).lsn) }
  }
  // A history that is not in this node's past. If a later one is, the demand lies on a limb that was cut off at an
  // unknown point: its position says nothing, and its ids decide. Else this node may be the one that is behind.
  const later = line.filter((row) => row.epoch > history.epoch && row.fork !== undefined)
  return later.length === 0 ? { kind: 'unknown' } : { kind: 'older', later, crossed: later }
}

/**
 * What is to be told about a demand, or `undefined` when it is honoured as far as its history goes. `timestamp` is the
 * frontier's.
 */
export function judgeHistory(
  history: HistoryFrontier,
  timestamp: Hlc,
  shown: ShownBySnapshot,
): ForkVerdict | undefined {
  const standing = standingOf(history, shown.histories)
  const current = refOf(currentHistory(shown.histories))
  const demanded = refOf(history)
  if (standing.kind === 'current') return undefined
  if (standing.kind === 'unknown') return { kind: 'history_unknown', demanded, current }

  const leftOut = new Set(standing.later.flatMap((row) => forkOf(row).leftOut))
  const own = transactionIdsOf(history).filter((id) => leftOut.has(id))
  const rewritten = standing.crossed.some((row) => forkOf(row).leftOut.length > 0)
  // A left-out branch may have been prepared before the fork, so own ids are asked about on either side of it.
  if (rewritten || own.length > 0) return { kind: 'history_rewritten', leftOut: [...leftOut], own, current }

  const { lost, awaited } = idsNotShown(history, timestamp, shown)
  if (lost.length > 0) return { kind: 'write_lost', transactionIds: lost, current }
  // First it must be known whether there is a name to tell.
  if (awaited.length > 0) return undefined

  const readPastFork = standing.crossed.length > 0 && !history.idsSuffice
  return readPastFork || history.pendingForgotten ? { kind: 'history_changed', demanded, current } : undefined
}

/**
 * Own ids of an older history that a snapshot does not show. They are lost once everything up to their timestamp is
 * closed, and awaited until then: the branch may still be prepared here, with its settlement cut off by the fork, and
 * a cutover may still be redoing what it keeps.
 */
export function idsNotShown(
  history: HistoryFrontier,
  timestamp: Hlc,
  { visible, closedTimestamp }: ShownBySnapshot,
): { readonly lost: readonly TransactionId[]; readonly awaited: readonly TransactionId[] } {
  const lastIds = history.lastTransactionIds.map((transactionId) => ({ transactionId, timestamp }))
  const absent = [...lastIds, ...history.pending].filter((own) => !visible.has(own.transactionId))
  const idsOf = (due: boolean) =>
    absent.filter((own) => own.timestamp <= closedTimestamp === due).map((own) => own.transactionId)
  const lost = [...new Set(idsOf(true))]
  return { lost, awaited: [...new Set(idsOf(false))].filter((id) => !lost.includes(id)) }
}

/** The current history and those it descends from, newest first. */
function lineOf(rows: readonly HistoryRow[]): HistoryRow[] {
  const byId = new Map(rows.map((row) => [row.historyId, row]))
  const line: HistoryRow[] = []
  for (
    let row: HistoryRow | undefined = currentHistory(rows);
    row !== undefined;
    row = row.fork && byId.get(row.fork.parent)
  ) {
    assert(line.length < rows.length, `history ${row.historyId} descends from itself`)
    line.push(row)
  }
  return line
}

function forkOf(row: HistoryRow): HistoryFork {
  return present(row.fork, `history ${row.historyId} has a parent, so it has a fork point`)
}

export function refOf({ historyId, epoch }: HistoryRef): HistoryRef {
  return { historyId, epoch }
}
