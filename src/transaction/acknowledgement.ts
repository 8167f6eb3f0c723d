import type { Hlc } from '../hlc/hlc.ts'
import type { StatementOutcome } from '../postgres/statement.ts'
import type { Lsn } from '../postgres/lsn.ts'
import { sqlState } from '../postgres/sqlstate.ts'
import { readConcluded, readPosition, readSettingsLoaded, readStamp } from './transaction-store.ts'

/**
 * What counts as an acknowledgement. COMMIT and PREPARE TRANSACTION in an aborted transaction succeed, with the tag
 * ROLLBACK (HZ-P2). A wait for followers that is cancelled or terminated succeeds with a warning, and what was written
 * may be here and nowhere else (HZ-S1). A BEGIN that failed makes COMMIT succeed with a warning. So: the function before
 * it was accepted, the tag is right, and there is no warning.
 *
 * When `synchronous_standby_names` is emptied, the checkpointer releases everyone who waits, with success and no warning; when
 * it is changed, the WAL sender of whoever is named now does (HZ-S5). The function before refuses names that are not those of
 * the shard's followers; what is left is a change between it and the end of the wait. The postmaster signals all of them at
 * once, and a session loads its settings again between two statements: so where nobody has loaded them again by the statement
 * behind the commit, nobody was released. Any other change of settings that falls in between costs a question.
 */
export type CommitAnswer =
  | { readonly kind: 'acknowledged'; readonly timestamp: Hlc; readonly position: Lsn }
  | { readonly kind: 'refused' }
  | { readonly kind: 'unanswered' }

/** The flight ends with the stamp, COMMIT, and the flushed position. */
export function judgeCommit(outcomes: readonly StatementOutcome[]): CommitAnswer {
  const [stamped, committed, position] = outcomes.slice(-3)
  // Without its stamp there is nothing that could have committed: the error has aborted the transaction.
  if (!stamped?.ok || committed === undefined) return { kind: 'refused' }
  if (!committed.ok) return { kind: isRefusalToCommit(committed.error.sqlState) ? 'refused' : 'unanswered' }
  if (committed.tag === 'ROLLBACK') return { kind: 'refused' }
  if (committed.tag !== 'COMMIT' || committed.warnings.length > 0 || !position?.ok) return { kind: 'unanswered' }
  if (readSettingsLoaded(stamped) !== readSettingsLoaded(position)) return { kind: 'unanswered' }
  return { kind: 'acknowledged', timestamp: readStamp(stamped), position: readPosition(position) }
}

export type PrepareAnswer =
  | { readonly kind: 'yes'; readonly timestamp: Hlc; readonly position: Lsn }
  /** Nothing is left of the branch. */
  | { readonly kind: 'no' }
  /** A branch may be prepared, and it does not count. */
  | { readonly kind: 'may stand'; readonly why: string }

/** The flight ends with the branch row, PREPARE TRANSACTION, and the flushed position. */
export function judgePrepare(outcomes: readonly StatementOutcome[]): PrepareAnswer {
  const [branch, prepared, position] = outcomes.slice(-3)
  if (!branch?.ok || prepared === undefined) return { kind: 'no' }
  if (!prepared.ok) {
    return isRefusalToCommit(prepared.error.sqlState)
      ? { kind: 'no' }
      : { kind: 'may stand', why: prepared.error.message }
  }
  if (prepared.tag === 'ROLLBACK') return { kind: 'no' }
  const [warning] = prepared.warnings
  if (warning !== undefined) return { kind: 'may stand', why: warning.message }
  if (prepared.tag !== 'PREPARE' || !position?.ok) return { kind: 'may stand', why: `it answered ${prepared.tag}` }
  if (readSettingsLoaded(branch) !== readSettingsLoaded(position)) {
    return { kind: 'may stand', why: 'the settings of its server changed meanwhile' }
  }
  return { kind: 'yes', timestamp: readStamp(branch), position: readPosition(position) }
}

export type ReadingAnswer =
  | { readonly kind: 'read'; readonly timestamp: Hlc }
  /** Its shard found that it wrote or locked. */
  | { readonly kind: 'trace' }
  | { readonly kind: 'no' }

/** The flight ends with the conclusion and COMMIT. Nothing was written, so nobody is waited for and nothing may stand. */
export function judgeReading(outcomes: readonly StatementOutcome[]): ReadingAnswer {
  const [concluded, committed] = outcomes.slice(-2)
  if (concluded?.ok === false && concluded.error.sqlState === sqlState.mustBePrepared) return { kind: 'trace' }
  if (!concluded?.ok || !committed?.ok) return { kind: 'no' }
  if (committed.tag !== 'COMMIT' || committed.warnings.length > 0) return { kind: 'no' }
  return { kind: 'read', timestamp: readConcluded(concluded) }
}

/**
 * An error in answer to COMMIT or PREPARE itself: these classes abort the transaction before anything is written. Any
 * other, as of the server or the session, may come after that.
 */
function isRefusalToCommit(state: string): boolean {
  return ['0A', '22', '23', '25', '40', '42', '53', '54', '55', 'HF'].includes(state.slice(0, 2))
}
