import { assert, present } from '../base/assert.ts'
import { remembered } from '../base/remembered.ts'
import type { PlacementService, PlacementVersion } from '../directory/directory.ts'
import type { DomainName, Epoch, HistoryId, ShardName, TenantName, TransactionId } from '../directory/topology.ts'
import type { Hlc } from '../hlc/hlc.ts'
import { toHlc } from '../hlc/hlc.ts'
import type { Row, Statement, StatementOutcome, StatementResult } from '../postgres/statement.ts'
import { accepted } from '../postgres/statement.ts'
import type { Lsn } from '../postgres/lsn.ts'
import { formatLsn, parseLsn } from '../postgres/lsn.ts'
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

/** For the transaction. */
const bound = `set_config('holdfast.tenant', $1, true), set_config('holdfast.placements', '{}', true),
       set_config('holdfast.transaction', '00000000-0000-0000-0000-000000000000', true)`

/** The first statement of a transaction that asks for no evidence. */
export function openRead(tenant: TenantName): Statement {
  return { text: `select ${bound}`, values: [tenant], joined: true }
}

export interface EvidenceQuestion {
  /** Null for an operator's read: nothing is bound. */
  readonly tenant: TenantName | null
  readonly transactionIds: readonly TransactionId[]
  /**
   * The histories that the session knows. What cutovers left out is told only to those who know another than the newest, because
   * it can be long.
   */
  readonly histories: readonly HistoryId[]
  /** A follower that has received nothing beyond this is not asked for the greatest timestamp. */
  readonly through: Lsn
}

const shown = `
select e.shard, e.follows, e.replayed, e.position_after, e.histories, e.closed_timestamp,
       case when not e.follows or e.position_after > $2::pg_lsn then holdfast.greatest_shown() end as greatest_timestamp`
const asked = `
       case when not $3::uuid[] <@ array[e.history_id] then e.left_out end as left_out,
       case when $4::uuid[] <> '{}' then holdfast.shown_of($4) end as visible`
const ofTenant = 'from holdfast.evidence e left join holdfast.placements_shown p on p.tenant = $1'
const evidenceForTenant = `${shown}, ${asked}, p.placements, ${bound} ${ofTenant}`
const evidenceForOperator = `${shown}, ${asked}, $1::text as placements from holdfast.evidence e`
const becomeBoundOnce = `set_config('role', 'holdfast_bound', true)`
/** An executor starts with every expression of a statement, those too that it leaves out. */
const leanEvidence = `${shown}, p.placements, ${bound}, ${becomeBoundOnce} ${ofTenant}`

/** The first statement of the transaction: it takes the snapshot. */
export function evidence({ tenant, transactionIds, histories, through }: EvidenceQuestion): Statement {
  const text = tenant === null ? evidenceForOperator : evidenceForTenant
  return { text, values: [tenant, formatLsn(through), histories, transactionIds] }
}

/**
 * The same, without what was left out and which ids are visible, for what runs behind it as the application. What it calls is
 * called in order, so the role is taken last.
 */
export function evidenceUnasked(tenant: TenantName, through: Lsn): Statement {
  return { text: leanEvidence, values: [tenant, formatLsn(through)], joined: true }
}

/** A placement as the snapshot has it. */
export interface ShownPlacement {
  readonly shard: ShardName
  readonly version: PlacementVersion
  readonly service: PlacementService
}

/** The answer to `evidence`: all of it from the snapshot, but the positions, which were read after it was taken. */
export interface ProofRow {
  readonly shard: ShardName
  readonly follows: boolean
  /** Proves nothing of this snapshot, but of every later one of the same server process. */
  readonly replayed: Lsn
  readonly positionAfter: Lsn
  readonly histories: readonly HistoryRow[]
  readonly placements: ReadonlyMap<DomainName, ShownPlacement>
  /** Of those that were asked for. */
  readonly visible: ReadonlySet<TransactionId>
  readonly closedTimestamp: Hlc
  /** Undefined when it was not asked for. */
  readonly greatestTimestamp: Hlc | undefined
}

interface HistoryJson {
  readonly id: HistoryId
  readonly epoch: Epoch
  readonly parent: HistoryId | null
  readonly fork: string | null
}

type LeftOut = Readonly<Record<HistoryId, readonly TransactionId[]>>

/** Undefined where no shard is founded. */
export function readEvidence(outcome: StatementOutcome): ProofRow | undefined {
  const [row] = rowsOf<{
    shard: ShardName
    follows: boolean
    replayed: string
    position_after: string
    histories: string
    left_out?: string | null
    placements: string | null
    visible?: readonly TransactionId[] | null
    closed_timestamp: string
    greatest_timestamp: string | null
  }>(outcome)
  if (row === undefined) return undefined
  const { greatest_timestamp: greatest, left_out: leftOut = null, visible = null } = row
  return {
    shard: row.shard,
    follows: row.follows,
    replayed: parseLsn(row.replayed),
    positionAfter: parseLsn(row.position_after),
    histories:
      leftOut === null ? historiesOf(row.histories) : readHistories(row.histories, JSON.parse(leftOut) as LeftOut),
    placements: row.placements === null ? noPlacements : placementsOf(row.placements),
    visible: visible === null ? noneVisible : new Set(visible),
    closedTimestamp: toHlc(BigInt(row.closed_timestamp)),
    greatestTimestamp: greatest === null ? undefined : toHlc(BigInt(greatest)),
  }
}

const noPlacements: ProofRow['placements'] = new Map()
const noneVisible: ProofRow['visible'] = new Set()

/** Every read is told these texts, and they change rarely. */
const historiesOf = remembered((text) => readHistories(text, {}), 1_000)
const placementsOf = remembered(
  (text): ProofRow['placements'] =>
    new Map(
      Object.entries(JSON.parse(text) as Readonly<Record<DomainName, ShownPlacement>>) as [
        DomainName,
        ShownPlacement,
      ][],
    ),
  10_000,
)

function readHistories(text: string, leftOut: LeftOut): HistoryRow[] {
  return (JSON.parse(text) as readonly HistoryJson[]).map(({ id, epoch, parent, fork }) => {
    if (parent === null) return { historyId: id, epoch, fork: undefined }
    const lsn = parseLsn(present(fork, `history ${id} has a parent, so it has a fork point`))
    return { historyId: id, epoch, fork: { parent, lsn, leftOut: leftOut[id] ?? [] } }
  })
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
