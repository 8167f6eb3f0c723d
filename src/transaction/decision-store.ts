import { present } from '../base/assert.ts'
import type { Epoch, ShardName, TenantName, TransactionId } from '../directory/topology.ts'
import type { Hlc } from '../hlc/hlc.ts'
import { toHlc } from '../hlc/hlc.ts'
import type { Statement, StatementOutcome } from '../postgres/statement.ts'
import type { BusinessAction } from './transaction-store.ts'
import { literal, oneRow, rowsOf } from './transaction-store.ts'

/** Statements about what became of a transaction: decisions, records, branches, the journal. All in autocommit. */

/**
 * Moves a clock past a decided timestamp. It is refused only where no vote can have checked it: far ahead of both walls.
 *   wall  of this process, the witness of the server's
 */
export function observeDecided(timestamp: Hlc, wall: Hlc): Statement {
  return {
    text: 'select (holdfast.observe_decided($1::bigint, $2::bigint) - holdfast.wall_hlc()) >> 16 as ahead_ms',
    values: [timestamp, wall],
  }
}

export function commitPrepared(gid: string): Statement {
  return { text: `commit prepared ${literal(gid)}`, once: true }
}

export function rollbackPrepared(gid: string): Statement {
  return { text: `rollback prepared ${literal(gid)}`, once: true }
}

export type Decision =
  | { readonly outcome: 'COMMITTED'; readonly commitTimestamp: Hlc }
  | { readonly outcome: 'ABORTED' }

export function recordDecision(
  transactionId: TransactionId,
  decision: Decision,
  home: ShardName,
  homeEpoch: Epoch,
): Statement {
  return {
    text: 'select holdfast.record_decision($1, $2, $3, $4, $5)',
    values: [
      transactionId,
      decision.outcome,
      decision.outcome === 'COMMITTED' ? decision.commitTimestamp : null,
      home,
      homeEpoch,
    ],
  }
}

/**
 * A decision that the settlement behind it in the flight depends on: what fails here skips that too. A transaction of its
 * own, since PostgreSQL settles no branch within the one that a sync point makes of what it joins.
 */
export function decideFirst(decision: Statement): readonly Statement[] {
  return [
    { text: 'begin', joined: true },
    { ...decision, joined: true },
    { text: 'commit', joined: true },
  ]
}

export function abortUnlessRecorded(
  transactionId: TransactionId,
  participants: readonly ShardName[],
  epoch: Epoch,
  reason: string,
): Statement {
  return {
    text: `select outcome, commit_timestamp::text as commit_timestamp, home_epoch
           from holdfast.abort_unless_recorded($1, $2, $3, $4)`,
    values: [transactionId, participants, epoch, reason],
  }
}

export function selectRecord(transactionId: TransactionId): Statement {
  return {
    text: `select outcome, commit_timestamp::text as commit_timestamp, home_epoch, reason
           from holdfast.transaction_record where transaction_id = $1`,
    values: [transactionId],
  }
}

/** A shard's clock, the wall of its server, and what it goes by when it adopts a decision. */
export const selectClock: Statement = {
  text: `select c.last_value::text as clock, holdfast.wall_hlc()::text as wall, s.max_clock_offset_ms as offset_ms,
           (select coalesce(max(a.commit_timestamp), 0) from holdfast.clock_acceptance a)::text as accepted
         from holdfast.hlc c, holdfast.shard s`,
}

export interface ShardClockReading {
  readonly clock: Hlc
  readonly wall: Hlc
  readonly maxClockOffsetMs: number
  /** Up to where a person has let this clock be moved (C8). */
  readonly accepted: Hlc
}

export function readClock(outcome: StatementOutcome): ShardClockReading {
  const row = oneRow<{ clock: string; wall: string; offset_ms: number; accepted: string }>(outcome)
  const { clock, wall, offset_ms: maxClockOffsetMs, accepted } = row
  const toClock = (text: string) => toHlc(BigInt(text))
  return { clock: toClock(clock), wall: toClock(wall), maxClockOffsetMs, accepted: toClock(accepted) }
}

/** Whether home's part of a transaction is open; asked before its record is read. */
export function selectHomeIsOpen(transactionId: TransactionId): Statement {
  return { text: 'select holdfast.home_is_open($1) as answer', values: [transactionId] }
}

/** Whether a record of this transaction could have been collected; asked after it was looked for. */
export function selectCouldBeCollected(transactionId: TransactionId): Statement {
  return {
    text: 'select holdfast.transaction_born_ms($1) < s.collected_through_ms as answer from holdfast.shard s',
    values: [transactionId],
  }
}

export type TransactionRecord = Decision & { readonly homeEpoch: Epoch; readonly reason: string }

export function readRecord(outcome: StatementOutcome): TransactionRecord | undefined {
  const [row] = rowsOf<{ outcome: string; commit_timestamp: string | null; home_epoch: Epoch; reason?: string }>(
    outcome,
  )
  if (row === undefined) return undefined
  const rest = { homeEpoch: row.home_epoch, reason: row.reason ?? '' }
  if (row.outcome === 'ABORTED') return { outcome: 'ABORTED', ...rest }
  const text = present(row.commit_timestamp, 'a committed record has its timestamp')
  return { outcome: 'COMMITTED', commitTimestamp: toHlc(BigInt(text)), ...rest }
}

export function selectCommit(transactionId: TransactionId): Statement {
  return {
    text: `select commit_timestamp::text as commit_timestamp, tenant, action, subject, actor, placements, epoch, participants
           from holdfast.commit_log where transaction_id = $1`,
    values: [transactionId],
  }
}

/** A row of the commit log: what the history says of a transaction for ever. */
export interface CommitRow extends BusinessAction {
  readonly tenant: TenantName
  readonly commitTimestamp: Hlc
  readonly placements: Readonly<Record<string, number>>
  readonly epoch: Epoch
  readonly participants: readonly ShardName[]
}

export function readCommit(outcome: StatementOutcome): CommitRow | undefined {
  const [row] = rowsOf<Omit<CommitRow, 'commitTimestamp'> & { commit_timestamp: string }>(outcome)
  if (row === undefined) return undefined
  const { commit_timestamp: timestamp, tenant, action, subject, actor, placements, epoch, participants } = row
  return { commitTimestamp: toHlc(BigInt(timestamp)), tenant, action, subject, actor, placements, epoch, participants }
}

/** Whether a backend still lives: while it does, what was sent to it may still take effect. */
export function selectBackend(processId: number): Statement {
  return {
    text: `select exists(select from pg_stat_activity where pid = $1 and usename = current_user) as answer`,
    values: [processId],
  }
}

/** Whether a branch is visible here: only then is it committed, whatever `commit prepared` said. */
export function selectBranchVisible(transactionId: TransactionId): Statement {
  return {
    text: 'select exists(select from holdfast.branch where transaction_id = $1) as answer',
    values: [transactionId],
  }
}

export function readAnswer(outcome: StatementOutcome): boolean {
  return oneRow<{ answer: boolean }>(outcome).answer
}

/** Holdfast's prepared transactions of this database whose gid begins so. */
export function selectPrepared(gidPrefix: string): Statement {
  return {
    text: `select gid, (extract(epoch from clock_timestamp() - prepared) * 1000)::float8 as age_ms
           from pg_prepared_xacts where database = current_database() and starts_with(gid, $1) order by prepared`,
    values: [gidPrefix],
  }
}

export interface PreparedRow {
  readonly gid: string
  readonly ageMs: number
}

export function readPrepared(outcome: StatementOutcome): PreparedRow[] {
  return rowsOf<{ gid: string; age_ms: number }>(outcome).map((row) => ({ gid: row.gid, ageMs: row.age_ms }))
}

export function insertAttempt(
  transactionId: TransactionId,
  business: BusinessAction,
  code: string,
  reason: string,
): Statement {
  return {
    text: `insert into holdfast.attempt (transaction_id, tenant, action, subject, actor, code, reason)
           values ($1, $2, $3, $4, $5, $6, $7)`,
    values: [transactionId, business.tenant, business.action, business.subject, business.actor, code, reason],
  }
}

export function selectAttempt(transactionId: TransactionId): Statement {
  return {
    text: `select code, reason from holdfast.attempt where transaction_id = $1 order by attempted_at desc limit 1`,
    values: [transactionId],
  }
}
