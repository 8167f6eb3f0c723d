import { assert, present } from '../base/assert.ts'
import type { PlacementService, PlacementVersion } from '../directory/directory.ts'
import type { DomainName, Epoch, HistoryId, ShardName, TenantName, TransactionId } from '../directory/topology.ts'
import type { Hlc } from '../hlc/hlc.ts'
import { toHlc } from '../hlc/hlc.ts'
import type { Row, Statement, StatementOutcome, StatementResult } from '../postgres/connection.ts'
import { accepted } from '../postgres/connection.ts'
import type { Lsn } from '../postgres/lsn.ts'
import { parseLsn } from '../postgres/lsn.ts'
import type { HistoryRow } from '../session/fork-point.ts'

/** Every statement that a read sends on its own behalf, one name each, and how its answer is read. */

/** Before BEGIN: only a position that was read before the snapshot was taken proves anything (HZ-T1). */
export const positionBefore: Statement = {
  text: `select (case when pg_is_in_recovery() then pg_last_wal_replay_lsn()
           else pg_current_wal_flush_lsn() end)::text as position`,
}

export function readPosition(outcome: StatementOutcome): Lsn {
  return parseLsn(oneRow<{ position: string }>(outcome).position)
}

/** What begins the transaction, takes the snapshot and proves has one sync point: the server answers it at once. */
export const beginRead: Statement = { text: 'begin isolation level repeatable read, read only', joined: true }
export const commit: Statement = { text: 'commit' }
/** For the session: it is taken back before the connection is given back. Where it fails, nothing behind it runs as the gateway. */
export const becomeBound: Statement = { text: 'set role holdfast_bound', joined: true }
export const becomeGateway: Statement = { text: 'reset role' }

/** The first statement of the transaction: it takes the snapshot. */
export function openRead(tenant: TenantName): Statement {
  return {
    text: `select set_config('holdfast.tenant', $1, true), set_config('holdfast.placements', '{}', true),
             set_config('holdfast.transaction', '00000000-0000-0000-0000-000000000000', true)`,
    values: [tenant],
    joined: true,
  }
}

/** What an operator's read sends in its place: it takes the snapshot and binds no tenant. */
export const takeSnapshot: Statement = { text: 'select pg_current_snapshot()::text as snapshot', joined: true }

export interface ProofQuestion {
  readonly tenant: TenantName | null
  readonly transactionIds: readonly TransactionId[]
  readonly histories: readonly HistoryId[]
}

export function proof(question: ProofQuestion): Statement {
  return {
    text: `select shard, follows, position_after::text as position_after, histories, placements, visible,
             closed_timestamp::text as closed_timestamp, greatest_timestamp::text as greatest_timestamp
           from holdfast.proof($1, $2::uuid[], $3::uuid[])`,
    values: [question.tenant, question.transactionIds, question.histories],
  }
}

/** A placement as the snapshot has it. */
export interface ShownPlacement {
  readonly shard: ShardName
  readonly version: PlacementVersion
  readonly service: PlacementService
}

/** The answer of `proof`: all of it from the snapshot, but the position, which was read after it was taken. */
export interface ProofRow {
  readonly shard: ShardName
  readonly follows: boolean
  readonly positionAfter: Lsn
  readonly histories: readonly HistoryRow[]
  readonly placements: ReadonlyMap<DomainName, ShownPlacement>
  readonly visible: ReadonlySet<TransactionId>
  readonly closedTimestamp: Hlc
  readonly greatestTimestamp: Hlc
}

interface HistoryJson {
  readonly id: HistoryId
  readonly epoch: Epoch
  readonly parent: HistoryId | null
  readonly fork: string | null
  readonly leftOut: readonly TransactionId[]
}

export function readProof(outcome: StatementOutcome): ProofRow {
  const row = oneRow<{
    shard: ShardName
    follows: boolean
    position_after: string
    histories: readonly HistoryJson[]
    placements: Readonly<Record<DomainName, ShownPlacement>>
    visible: readonly TransactionId[]
    closed_timestamp: string
    greatest_timestamp: string
  }>(outcome)
  return {
    shard: row.shard,
    follows: row.follows,
    positionAfter: parseLsn(row.position_after),
    histories: row.histories.map(historyFromJson),
    placements: new Map(Object.entries(row.placements) as [DomainName, ShownPlacement][]),
    visible: new Set(row.visible),
    closedTimestamp: toHlc(BigInt(row.closed_timestamp)),
    greatestTimestamp: toHlc(BigInt(row.greatest_timestamp)),
  }
}

function historyFromJson({ id, epoch, parent, fork, leftOut }: HistoryJson): HistoryRow {
  if (parent === null) return { historyId: id, epoch, fork: undefined }
  const lsn = parseLsn(present(fork, `history ${id} has a parent, so it has a fork point`))
  return { historyId: id, epoch, fork: { parent, lsn, leftOut } }
}

/** How far a node is: a hint when to ask it for a proof, never a proof. */
export interface Freshness {
  readonly replayed: Lsn
  readonly closedTimestamp: Hlc
  readonly visible: ReadonlySet<TransactionId>
}

export function freshness(transactionIds: readonly TransactionId[]): Statement {
  return {
    text: `select replayed::text as replayed, closed_timestamp::text as closed_timestamp, visible
           from holdfast.freshness($1::uuid[])`,
    values: [transactionIds],
  }
}

export function readFreshness(outcome: StatementOutcome): Freshness {
  const row = oneRow<{ replayed: string; closed_timestamp: string; visible: readonly TransactionId[] }>(outcome)
  return {
    replayed: parseLsn(row.replayed),
    closedTimestamp: toHlc(BigInt(row.closed_timestamp)),
    visible: new Set(row.visible),
  }
}

/**
 * Moves a shard's clock past a timestamp that a reader waits for, and wakes who closes it. In autocommit.
 *   wall  of this gateway, the witness of the server's
 */
export function requestClosing(timestamp: Hlc, wall: Hlc): Statement {
  return {
    text: 'select (holdfast.request_closing($1::bigint, $2::bigint) - holdfast.wall_hlc()) >> 16 as ahead_ms',
    values: [timestamp, wall],
  }
}

/** A global transaction as one shard shows it, with every shard that it wrote. */
export interface GlobalTransaction {
  readonly transactionId: TransactionId
  readonly commitTimestamp: Hlc
  /** The home first. */
  readonly shards: readonly ShardName[]
}

export function visibleGlobalTransactions(above: Hlc): Statement {
  return {
    text: `select transaction_id, commit_timestamp::text as commit_timestamp, shards
           from holdfast.visible_global_transactions($1::bigint)`,
    values: [above],
  }
}

export function readGlobalTransactions(outcome: StatementOutcome): GlobalTransaction[] {
  return rowsOf<{ transaction_id: TransactionId; commit_timestamp: string; shards: readonly ShardName[] }>(outcome).map(
    (row) => ({
      transactionId: row.transaction_id,
      commitTimestamp: toHlc(BigInt(row.commit_timestamp)),
      shards: row.shards,
    }),
  )
}

/** The outcome of a statement that has no answer; throws its refusal, or when it did not do what it says. */
export function requireTag(outcome: StatementOutcome | undefined, tag: string): StatementResult {
  const result = accepted(present(outcome, 'one outcome a statement'))
  assert(result.tag === tag, `the statement is answered with ${tag}, not ${result.tag}`)
  return result
}

function rowsOf<R>(outcome: StatementOutcome): R[] {
  return accepted(outcome).rows as (Row & R)[]
}

function oneRow<R>(outcome: StatementOutcome): R {
  return present(rowsOf<R>(outcome)[0], 'the statement answers one row')
}
