import type { BaseBackupEntry } from '../archive/base-backups.ts'
import type { RedoTransaction, RowChange } from '../archive/redo-transaction.ts'
import { nameOf } from '../archive/redo-transaction.ts'
import type { TimelineHistory } from '../archive/timeline.ts'
import { spansOf } from '../archive/timeline.ts'
import type { WalAudit } from '../archive/wal-audit.ts'
import { HoldfastError } from '../base/errors.ts'
import type { ShardName, TransactionId } from '../directory/topology.ts'
import type { Hlc } from '../hlc/hlc.ts'
import type { Lsn } from '../postgres/lsn.ts'
import { formatLsn } from '../postgres/lsn.ts'
import type { CommitDecision, ShardHistory, TransactionName } from './history.ts'
import { decisionOf, lowestOf, readSince } from './history.ts'
import type { Bound, Position } from './position.ts'
import { firstBeyond, isWithin, positionOf } from './position.ts'

/**
 * The cut: what must be there after a restore, and per shard the physical stop that goes as far as possible towards it.
 *
 * PostgreSQL replays a log from the start to one position. The transactions that are wanted are in general no prefix of any
 * log: stamps and commits have different orders, and a replay leaves some out. So the stop is the start of the first
 * commit that is not wanted (R1), and what is wanted behind it comes from the redo stream.
 */
export interface Wanted {
  readonly bound: Bound
  /** With their timestamps. */
  readonly excluded: ReadonlyMap<TransactionName, Hlc>
}

export interface Cut {
  readonly wanted: Wanted
  readonly shards: ReadonlyMap<ShardName, ShardCut>
}

export interface ShardCut {
  readonly shard: ShardName
  /** The start of the first commit in log order that must not be there; null when all of the stream is wanted. */
  readonly limit: Lsn | null
  /** How many commits must not, those of the platform among them. */
  readonly leftOut: number
}

/** A commit to apply, with the changes that belong: a commit of the platform may serve several transactions. */
export interface RedoStep {
  readonly transaction: RedoTransaction
  readonly changes: readonly RowChange[]
}

export async function planCut(histories: readonly ShardHistory[], wanted: Wanted): Promise<Cut> {
  const shards = new Map<ShardName, ShardCut>()
  for (const history of histories) {
    let limit: Lsn | null = null
    let leftOut = 0
    for await (const transaction of readUnwanted(history, wanted)) {
      const changes = wantedChanges(transaction, wanted)
      if (changes?.length === transaction.changes.length) continue
      limit ??= transaction.commitLsn
      if (changes === null) leftOut++
    }
    shards.set(history.shard, { shard: history.shard, limit, leftOut })
  }
  return { wanted, shards }
}

/** What is left out on a shard, in commit order; commits of the platform's own aside. */
export async function* readLeftOut(history: ShardHistory, wanted: Wanted): AsyncGenerator<RedoTransaction, void> {
  for await (const transaction of readUnwanted(history, wanted)) {
    if (transaction.identity.kind !== 'platform' && wantedChanges(transaction, wanted) === null) yield transaction
  }
}

/** From somewhere before the first that is not wanted. */
function readUnwanted(history: ShardHistory, { bound, excluded }: Wanted): AsyncIterable<RedoTransaction> {
  const beyond = firstBeyond(bound)
  return readSince(history, lowestOf(beyond === null ? excluded.values() : [beyond, ...excluded.values()]))
}

/** The changes of a commit that must be there; null when the commit must not. */
function wantedChanges(transaction: RedoTransaction, wanted: Wanted): readonly RowChange[] | null {
  const whole = isWanted(positionOf(transaction), nameOf(transaction), wanted)
  if (transaction.identity.kind !== 'platform') return whole ? transaction.changes : null
  const kept = transaction.changes.filter((change) => {
    const decided = decisionOf(change)
    return decided === null ? whole : isWanted({ kind: 'stamped', ...decided }, decided.transactionId, wanted)
  })
  return kept.length > 0 || (whole && transaction.changes.length === 0) ? kept : null
}

export function isWanted(position: Position, name: TransactionName, { bound, excluded }: Wanted): boolean {
  return isWithin(bound, position) && !excluded.has(name)
}

function decidedBy({ identity }: RedoTransaction, changes: readonly RowChange[]): CommitDecision[] {
  if (identity.kind === 'home' || identity.kind === 'branch') {
    return [{ transactionId: identity.transactionId, timestamp: identity.commitTimestamp }]
  }
  return changes.flatMap((change) => decisionOf(change) ?? [])
}

/** Where the physical replay of one shard ends. */
export type Stop =
  /** Before the record that starts there. */
  | { readonly kind: 'before'; readonly lsn: Lsn }
  /** After the record that starts at `lsn` and ends at `through`: the last one that is archived. */
  | { readonly kind: 'after'; readonly lsn: Lsn; readonly through: Lsn }

/**
 * The stop for a cut, given how far the log is archived. Past the end of the redo stream a log may hold commits that nobody has
 * looked at, so the stop is never behind it, except for a restore to the end, which wants them all.
 * Throws `archive_gap`.
 */
export function chooseStop(bound: Bound, cut: ShardCut, redoThrough: Lsn, audit: WalAudit): Stop {
  const [gap] = audit.gaps
  const [damaged] = audit.checksumFailures
  const desired = cut.limit ?? (bound.kind === 'end' ? null : redoThrough)
  if (damaged !== undefined || (gap !== undefined && (desired === null || gap.from <= desired))) {
    const what = damaged === undefined ? `a gap from ${formatLsn(gap?.from ?? audit.from)}` : damaged.reason
    throw new HoldfastError('archive_gap', `the log of ${cut.shard} has ${what}`, { detail: { shard: cut.shard } })
  }
  // A record that starts at the stop must be there, or replay would wait for it and never stop (HZ-A2).
  if (desired !== null && audit.contiguousThrough > desired) return { kind: 'before', lsn: desired }
  if (audit.lastRecord === null) {
    throw new HoldfastError('archive_gap', `the archive of ${cut.shard} has no log from ${formatLsn(audit.from)} on`)
  }
  return { kind: 'after', lsn: audit.lastRecord, through: audit.contiguousThrough }
}

/** The newest base backup that is consistent before the limit. Throws `restore_unreachable`. */
export function chooseBackup(
  shard: ShardName,
  backups: readonly BaseBackupEntry[],
  history: TimelineHistory,
  limit: Lsn | null,
): BaseBackupEntry {
  const spans = new Map(spansOf(history).map((span) => [span.timeline, span]))
  const fitting = backups.filter(({ timeline, stopLsn }) => {
    const span = spans.get(timeline)
    return span !== undefined && (span.end === null || stopLsn <= span.end) && (limit === null || stopLsn <= limit)
  })
  const newest = fitting.reduce<BaseBackupEntry | undefined>(
    (best, one) => (best === undefined || one.stopLsn > best.stopLsn ? one : best),
    undefined,
  )
  if (newest !== undefined) return newest
  const before = limit === null ? '' : ` before ${formatLsn(limit)}`
  throw new HoldfastError('restore_unreachable', `the archive of ${shard} has no base backup${before}`, {
    hint: 'holdfast backup takes one; it serves targets behind it',
    detail: { shard, backups: backups.map(({ id }) => id) },
  })
}

/** What is wanted and not physically there: to be redone, in commit order. */
export async function* absentBehind(stop: Stop, history: ShardHistory, wanted: Wanted): AsyncGenerator<RedoStep, void> {
  for await (const transaction of history.read(reachedBy(stop))) {
    if (isBefore(stop, transaction)) continue
    const changes = wantedChanges(transaction, wanted)
    if (changes !== null) yield { transaction, changes }
  }
}

/** The position up to which a physical replay to the stop has everything. */
export function reachedBy(stop: Stop): Lsn {
  return stop.kind === 'before' ? stop.lsn : stop.through
}

/** Whether a physical replay to the stop contains the commit. */
function isBefore(stop: Stop, transaction: Pick<RedoTransaction, 'commitLsn' | 'endLsn'>): boolean {
  return stop.kind === 'before' ? transaction.commitLsn < stop.lsn : transaction.endLsn <= stop.through
}

/** Decisions to commit, with their timestamps, over some prepared branches. */
export type CommitDecisions = ReadonlyMap<TransactionId, Hlc>

/**
 * Which of some transactions the redo stream of a shard shows behind its stop as committed and wanted. A restored branch of one of
 * them is committed, wherever the stop of its home lies (HZ-X10). What lies before the stop is in the restored server itself.
 */
export async function committedBehind(
  stop: Stop,
  history: ShardHistory,
  wanted: Wanted,
  ids: ReadonlySet<TransactionId>,
): Promise<CommitDecisions> {
  const committed = new Map<TransactionId, Hlc>()
  if (ids.size === 0) return committed
  for await (const { transaction, changes } of absentBehind(stop, history, wanted)) {
    for (const one of decidedBy(transaction, changes)) {
      if (ids.has(one.transactionId)) committed.set(one.transactionId, one.timestamp)
    }
  }
  return committed
}

/** A decision that a restored server holds; null for ABORTED. */
export type RestoredDecisions = ReadonlyMap<TransactionId, Hlc | null>

/**
 * What becomes of a prepared branch of a restored shard: the timestamp it is committed with, or null when it is rolled
 * back (R3). What is left out has no record in either place, since the stop of its home lies before it.
 */
export function decideBranch(
  transactionId: TransactionId,
  committed: CommitDecisions,
  restored: RestoredDecisions,
): Hlc | null {
  return committed.get(transactionId) ?? restored.get(transactionId) ?? null
}
