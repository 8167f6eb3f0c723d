import type { RedoThrough, RedoTransaction, RowChange } from '../archive/redo-transaction.ts'
import { nameOf } from '../archive/redo-transaction.ts'
import type { ShardName, TransactionId } from '../directory/topology.ts'
import type { Hlc } from '../hlc/hlc.ts'
import { hlcZero, maxHlc, toHlc } from '../hlc/hlc.ts'
import type { Lsn } from '../postgres/lsn.ts'
import type { Position } from './position.ts'
import { positionOf } from './position.ts'

/**
 * The commits of one shard, as far as its archive goes.
 *
 * Behind the last base backup of a busy fleet lie more of them than any memory holds. So nobody has them all: who needs them
 * reads them from the archive once more, one after the other, and keeps what follows from them. A stream only grows behind
 * where it was frozen, so each reading is of the same commits.
 */
export interface ShardHistory {
  readonly shard: ShardName
  readonly redo: RedoThrough
  readonly survey: Survey
  /** In commit order: those that ended behind `from`; all without it. */
  readonly read: (from?: Lsn) => AsyncIterable<RedoTransaction>
}

/** What a person names a transaction by: its id, or `shard@LSN` for a commit without one. */
export type TransactionName = string

/** What the first reading has told. */
export interface Survey {
  /** Null where there is no commit. */
  readonly first: Position | null
  /** Of the first that has a stamp; null where none has. */
  readonly firstStamp: Hlc | null
  /** Of all positions; zero where there is none. */
  readonly highest: Hlc
  /** Where those are that were asked about, as far as they are here. */
  readonly named: ReadonlyMap<TransactionName, Position>
  readonly milestones: readonly Milestone[]
}

/** Commits that ended at or before `lsn`, and what they decided, lie at or below the timestamp. */
interface Milestone {
  readonly lsn: Lsn
  readonly highest: Hlc
}

/** Few enough to be held for any stream, near enough to each other that what lies between is read in a moment. */
const commitsBetweenMilestones = 4_096

/** Reads a history for the first time, for a plan that speaks of some transactions by name. */
export class Surveyor {
  readonly #asked: ReadonlySet<TransactionName>
  readonly #every: number
  readonly #named = new Map<TransactionName, Position>()
  readonly #milestones: Milestone[] = []
  #first: Position | null = null
  #firstStamp: Hlc | null = null
  #highest: Hlc = hlcZero
  /** With decisions, which stand in the log before what they settle. */
  #highestDecided: Hlc = hlcZero
  #commits = 0

  constructor(asked: Iterable<TransactionName>, every = commitsBetweenMilestones) {
    this.#asked = new Set(asked)
    this.#every = every
  }

  pass(transaction: RedoTransaction): void {
    const position = positionOf(transaction)
    this.#first ??= position
    if (position.kind === 'stamped') this.#firstStamp ??= position.timestamp
    this.#highest = maxHlc(this.#highest, position.timestamp)
    this.#highestDecided = maxHlc(this.#highestDecided, position.timestamp)
    if (transaction.identity.kind === 'platform') {
      for (const change of transaction.changes) {
        const decided = decisionOf(change)
        if (decided !== null) this.#highestDecided = maxHlc(this.#highestDecided, decided.timestamp)
      }
    } else {
      const name = nameOf(transaction)
      if (this.#asked.has(name) && !this.#named.has(name)) this.#named.set(name, position)
    }
    if (++this.#commits % this.#every === 0) {
      this.#milestones.push({ lsn: transaction.endLsn, highest: this.#highestDecided })
    }
  }

  conclude(): Survey {
    return {
      first: this.#first,
      firstStamp: this.#firstStamp,
      highest: this.#highest,
      named: this.#named,
      milestones: this.#milestones,
    }
  }
}

export interface CommitDecision {
  readonly transactionId: TransactionId
  readonly timestamp: Hlc
}

/**
 * The decision to commit that a row holds. Such a row goes and stays with its transaction: it stands in the log before
 * the branch that it settles, so without this it would be restored for transactions that are not.
 */
export function decisionOf(change: RowChange): CommitDecision | null {
  if (change.relation !== 'holdfast.decision' || change.op !== 'insert') return null
  const { transaction_id: id, commit_timestamp: timestamp } = change.after
  if (id == null || timestamp == null) return null
  return { transactionId: id as TransactionId, timestamp: toHlc(BigInt(timestamp)) }
}

/** The commits of a history, without some at its beginning of which none lies at the timestamp or above, nor decides so. */
export function readSince({ survey, read }: ShardHistory, timestamp: Hlc | null): AsyncIterable<RedoTransaction> {
  if (timestamp === null) return read()
  return read(survey.milestones.findLast(({ highest }) => highest < timestamp)?.lsn)
}

/** Also past what was closed: a reader may have been told that nothing comes below it any more. */
export function highestOf(histories: readonly Pick<ShardHistory, 'redo' | 'survey'>[]): Hlc {
  return histories.reduce<Hlc>(
    (highest, { redo, survey }) => maxHlc(maxHlc(highest, redo.closedTimestamp), survey.highest),
    hlcZero,
  )
}

export function lowestOf(timestamps: Iterable<Hlc>): Hlc | null {
  let lowest: Hlc | null = null
  for (const one of timestamps) if (lowest === null || one < lowest) lowest = one
  return lowest
}
