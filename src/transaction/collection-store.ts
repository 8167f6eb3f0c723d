import { assert } from '../base/assert.ts'
import type { Epoch, ShardName, TransactionId } from '../directory/topology.ts'
import type { Statement, StatementOutcome } from '../postgres/statement.ts'
import type { Lsn } from '../postgres/lsn.ts'
import { parseLsn } from '../postgres/lsn.ts'
import type { RecordFacts } from './collection.ts'
import { oneRow, rowsOf } from './transaction-store.ts'

/** Statements of the collection of records, all in autocommit. */

/** When a transaction was born, in milliseconds: the first 48 bits of its id (RFC 9562, version 7). */
export function bornMsOf(transactionId: TransactionId): number {
  return Number.parseInt(transactionId.replaceAll('-', '').slice(0, 12), 16)
}

/**
 * The oldest records, of transactions born longer ago than the window. Two clocks must agree on that: one that is set far
 * ahead would collect what is young. What a gateway whose wall is behind bore old is young all the same.
 */
export function selectOldRecords(wallMs: number, windowMs: number, limit: number): Statement {
  return {
    text: `select transaction_id, outcome, participants from holdfast.transaction_record
           where transaction_id < (lpad(to_hex(greatest(0,
             least($1, trunc(extract(epoch from clock_timestamp()) * 1000)::bigint) - $2)), 12, '0') || repeat('0', 20))::uuid
             and recorded_at <= clock_timestamp() - $2 * interval '1 millisecond'
           order by transaction_id limit $3`,
    values: [wallMs, windowMs, limit],
  }
}

export function readRecords(outcome: StatementOutcome): RecordFacts[] {
  type RecordRow = { transaction_id: TransactionId; outcome: string; participants: ShardName[] }
  return rowsOf<RecordRow>(outcome).map(({ transaction_id: transactionId, outcome: decided, participants }) => {
    assert(decided === 'COMMITTED' || decided === 'ABORTED', 'a record is one of the two')
    return { transactionId, bornMs: bornMsOf(transactionId), outcome: decided, participants }
  })
}

export function announceCollection(home: ShardName, homeEpoch: Epoch, throughMs: number): Statement {
  return { text: 'select holdfast.announce_collection($1, $2, $3)', values: [home, homeEpoch, throughMs] }
}

export const selectOpenTransactions: Statement = { text: 'select holdfast.open_transactions() as open' }

export function readOpenTransactions(outcome: StatementOutcome): string[] {
  return oneRow<{ open: string[] }>(outcome).open
}

export function selectVisibleBranches(transactionIds: readonly TransactionId[]): Statement {
  return {
    text: 'select transaction_id from holdfast.branch where transaction_id = any($1::uuid[])',
    values: [transactionIds],
  }
}

export function readVisibleBranches(outcome: StatementOutcome): Set<TransactionId> {
  return new Set(rowsOf<{ transaction_id: TransactionId }>(outcome).map((row) => row.transaction_id))
}

/** A position of the log, on its timeline: the same number on another is another place. */
export interface LogPlace {
  readonly timeline: number
  readonly lsn: Lsn
}

export const selectLogPlace: Statement = {
  text: `select ('x' || left(pg_walfile_name(l.lsn), 8))::bit(32)::integer as timeline, l.lsn::text as lsn
         from (select pg_current_wal_flush_lsn() as lsn) l`,
}

export function readLogPlace(outcome: StatementOutcome): LogPlace {
  const { timeline, lsn } = oneRow<{ timeline: number; lsn: string }>(outcome)
  return { timeline, lsn: parseLsn(lsn) }
}

/**
 * How far log and redo stream are archived: an archive reports to its slots only what is on its disk (A1). No rows pass, so
 * it may be asked from a region that may not read the archive. Null while one of them has no slot.
 */
export function selectArchived(walSlot: string, redoSlot: string): Statement {
  return {
    text: `select ('x' || left(pg_walfile_name(pg_current_wal_flush_lsn()), 8))::bit(32)::integer as timeline,
             (select least(w.restart_lsn, r.confirmed_flush_lsn) from pg_replication_slots w, pg_replication_slots r
              where w.slot_name = $1 and r.slot_name = $2
                and w.restart_lsn is not null and r.confirmed_flush_lsn is not null)::text as lsn`,
    values: [walSlot, redoSlot],
  }
}

export function readArchived(outcome: StatementOutcome): LogPlace | undefined {
  const { timeline, lsn } = oneRow<{ timeline: number; lsn: string | null }>(outcome)
  return lsn === null ? undefined : { timeline, lsn: parseLsn(lsn) }
}

export function raiseCollection(throughMs: number, epoch: Epoch): Statement {
  return { text: 'select holdfast.raise_collection($1, $2)', values: [throughMs, epoch] }
}

export function collectRecords(transactionIds: readonly TransactionId[], epoch: Epoch): Statement {
  return { text: 'select holdfast.collect_records($1::uuid[], $2) as collected', values: [transactionIds, epoch] }
}

export function readCollected(outcome: StatementOutcome): number {
  return oneRow<{ collected: number }>(outcome).collected
}

/** K7. How far records of this home are collected; counts behind a barrier. */
export const selectCollectedThrough: Statement = {
  text: 'select s.collected_through_ms::text as through_ms from holdfast.shard s',
}

export function readCollectedThrough(outcome: StatementOutcome): number {
  return Number(oneRow<{ through_ms: string }>(outcome).through_ms)
}

export function collectDecisions(home: ShardName, homeEpoch: Epoch, throughMs: number, limit: number): Statement {
  return {
    text: 'select holdfast.collect_decisions($1, $2, $3, $4) as collected',
    values: [home, homeEpoch, throughMs, limit],
  }
}

export function collectKeys(wallMs: number, retentionMs: number, limit: number, epoch: Epoch): Statement {
  return {
    text: 'select holdfast.collect_keys($1, $2, $3, $4) as collected',
    values: [wallMs, retentionMs, limit, epoch],
  }
}
