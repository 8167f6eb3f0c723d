import { assert, present } from '../base/assert.ts'
import type { Epoch, ShardName, TransactionId } from '../directory/topology.ts'
import type { Hlc } from '../hlc/hlc.ts'
import { toHlc } from '../hlc/hlc.ts'
import type { Row, Statement, StatementOutcome } from '../postgres/statement.ts'
import { accepted } from '../postgres/statement.ts'
import type { Lsn } from '../postgres/lsn.ts'
import { parseLsn } from '../postgres/lsn.ts'
import type { Isolation } from './transaction.ts'

/** Every statement that a transaction sends on its own behalf, one name each, and how its answer is read. */

/** Placements of one shard that a transaction was routed by: domain to version. */
export type RoutedPlacements = ReadonlyMap<string, number>

export interface BusinessAction {
  readonly tenant: string
  readonly action: string
  readonly subject: string
  readonly actor: string
}

/**
 * Moves home's clock past the caller's frontier, and wakes who keeps it when it stood still. Sent before BEGIN, in
 * autocommit. An active shard's clock is kept at wall time; 50 ms behind means that nobody does yet.
 *   wall  of this gateway, the witness of the server's
 */
export function approachClock(frontier: Hlc, wall: Hlc): Statement {
  return {
    text: `select (holdfast.observe($1::bigint, $2::bigint) - holdfast.wall_hlc()) >> 16 as ahead_ms,
             case when c.last_value < holdfast.wall_hlc() - (50::bigint << 16) then holdfast.wake($2::bigint) end
           from holdfast.hlc c`,
    values: [frontier, wall],
  }
}

const boundRole = 'holdfast_bound'

/** DEFERRABLE means nothing to a writing transaction; the opening takes it as proof that this BEGIN took place. */
export function begin(isolation: Isolation): Statement {
  return { text: `begin isolation level ${isolation}, read write, deferrable`, joined: true }
}

/** An opening without a query of its own: each costs more than all of this together. */
const opening = `
  case when (select s.epoch = $3 and s.state = 'open' from holdfast.shard s)
    then coalesce(pg_sequence_last_value('holdfast.hlc'), 0) else holdfast.refuse_epoch($3) end::text as clock,
  set_config('holdfast.tenant', $1, true), set_config('holdfast.transaction', $2::uuid::text, true),
  set_config('holdfast.placements', $4, true),
  set_config('lock_timeout', $5, true), set_config('statement_timeout', $6, true),
  case when $7 then holdfast.hold_home($2::uuid) end,
  set_config('role', '${boundRole}', true) as role`

/** Binds the transaction, reads the clock, and ends as the role that the caller's statements run as. */
export function open(args: {
  readonly tenant: string
  readonly transactionId: TransactionId
  readonly epoch: Epoch
  /** What of the tenant lies on this shard in full service, as the directory has it: statements may write these domains. */
  readonly placements: RoutedPlacements
  readonly key: string | null
  readonly requestHash: Uint8Array | null
  /** How long a statement may wait for a lock. The claim of a key, which is part of the opening, waits without. */
  readonly lockWithinMs: number
  /** How long a statement may run, up to the conclusion of the caller's part. */
  readonly runWithinMs: number
  /** Home's part shows that it is open for as long as it is. */
  readonly isHome: boolean
}): Statement {
  const { tenant, transactionId, epoch, isHome } = args
  const values = [
    tenant,
    transactionId,
    epoch,
    jsonOf(args.placements),
    `${args.lockWithinMs}ms`,
    `${args.runWithinMs}ms`,
    isHome,
  ]
  if (args.key === null) return { text: `select ${opening}`, values, joined: true }
  return {
    text: `select c.*, ${opening} from holdfast.claim($1, $2, $8, $9) c`,
    values: [...values, args.key, args.requestHash],
    joined: true,
  }
}

/** Fails where an opening took no place, and with it what is joined to it: behind a BEGIN that failed everything autocommits. */
export const requireBound: Statement = {
  text: `select 1 / (current_user = '${boundRole}')::integer`,
  joined: true,
}

export interface FirstUse {
  readonly transactionId: TransactionId
  readonly sameRequest: boolean
  readonly value: unknown
}

/** What the opening told. */
export interface Opening {
  /** A reading of the shard's clock from inside the transaction, before anything was written. */
  readonly clock: Hlc
  /** The key was used before: this transaction must not go on. */
  readonly firstUse: FirstUse | undefined
}

export function readOpening(outcome: StatementOutcome): Opening {
  const row = oneRow<{
    clock: string
    first_transaction?: TransactionId | null
    same_request?: boolean
    value?: unknown
    role: string
  }>(outcome)
  assert(row.role === boundRole, 'the opening ends as the role of the application')
  const { first_transaction: first = null, same_request: sameRequest = false, value } = row
  return {
    clock: toHlc(BigInt(row.clock)),
    firstUse: first === null ? undefined : { transactionId: first, sameRequest, value },
  }
}

/**
 * The end of the caller's part: deferred constraints are checked as the application's role and within its time. The rest is
 * the gateway's, and nothing may end it once it has begun.
 */
export const concludeCaller: readonly Statement[] = [
  { text: 'set constraints all immediate', joined: true },
  { text: 'reset role', joined: true },
  { text: 'set local statement_timeout = 0', joined: true },
]
export const commit: Statement = { text: 'commit', joined: true }
export const rollback: Statement = { text: 'rollback' }
/** A number: the form of a time depends on the time zone, which the caller may set for the transaction alone. */
const settingsLoaded = 'extract(epoch from pg_conf_load_time())::text as settings'
/** Behind COMMIT or PREPARE TRANSACTION, in the same flight. */
export const flushedPosition: Statement = {
  text: `select pg_current_wal_flush_lsn()::text as position, ${settingsLoaded}`,
}

export function readPosition(outcome: StatementOutcome): Lsn {
  return parseLsn(oneRow<{ position: string }>(outcome).position)
}

export function stamp(args: {
  readonly transactionId: TransactionId
  readonly epoch: Epoch
  /** The idempotency key that the opening claimed. */
  readonly key: string | null
  readonly business: BusinessAction
  readonly placements: RoutedPlacements
  readonly participants: readonly ShardName[]
  readonly after: Hlc
  /** JSON text, or null for no value. */
  readonly value: string | null
  /** JSON text, of `EmittedEvents`. */
  readonly events: string
}): Statement {
  const { transactionId, epoch, key, business, placements, participants, after, value, events } = args
  return {
    text: `select holdfast.stamp($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)::text as stamp,
             ${settingsLoaded}`,
    joined: true,
    values: [
      transactionId,
      business.tenant,
      epoch,
      key,
      business.action,
      business.subject,
      business.actor,
      jsonOf(placements),
      participants,
      after,
      value,
      events,
    ],
  }
}

export function readStamp(outcome: StatementOutcome): Hlc {
  return toHlc(BigInt(oneRow<{ stamp: string }>(outcome).stamp))
}

/** When the session that answered had loaded its settings: a stamp and the position behind its commit both tell. */
export function readSettingsLoaded(outcome: StatementOutcome): string {
  return oneRow<{ settings: string }>(outcome).settings
}

export function prepareBranch(args: {
  readonly transactionId: TransactionId
  readonly epoch: Epoch
  readonly gid: string
  readonly home: ShardName
  readonly homeEpoch: Epoch
  readonly participants: readonly ShardName[]
  readonly business: BusinessAction
  readonly placements: RoutedPlacements
  readonly homeClock: Hlc
  /** Of this gateway, the witness of the server's wall. */
  readonly wall: Hlc
}): Statement {
  const { business } = args
  return {
    text: `select holdfast.prepare_branch($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)::text as stamp,
             ${settingsLoaded}`,
    joined: true,
    values: [
      args.transactionId,
      business.tenant,
      args.epoch,
      args.gid,
      args.home,
      args.homeEpoch,
      args.participants,
      business.action,
      business.subject,
      business.actor,
      jsonOf(args.placements),
      args.homeClock,
      args.wall,
    ],
  }
}

/**
 * Whether a transaction leaves a trace at a participant, be it rows or a lock that others may rely on until the decision.
 * Locks of reading are none, nor is that of the opening's look at the clock.
 */
const trace = `(pg_current_xact_id_if_assigned() is not null or exists (
  select from pg_locks l where l.pid = pg_backend_pid() and (l.locktype = 'advisory'
    or l.locktype = 'relation' and l.mode not in ('AccessShareLock', 'SIReadLock')
      and l.relation <> 'holdfast.hlc'::regclass)))`

/** Behind each awaited statement at a participant. */
export const leavesTrace: Statement = { text: `select ${trace} as leaves_trace` }

export function readTrace(outcome: StatementOutcome): boolean {
  return oneRow<{ leaves_trace: boolean }>(outcome).leaves_trace
}

export function concludeReading(
  transactionId: TransactionId,
  tenant: string,
  epoch: Epoch,
  placements: RoutedPlacements,
): Statement {
  return {
    text: `select case when ${trace} then holdfast.refuse_reading($1)
             else holdfast.conclude_reading($1, $2, $3, $4) end::text as clock`,
    values: [transactionId, tenant, epoch, jsonOf(placements)],
    joined: true,
  }
}

export function readConcluded(outcome: StatementOutcome): Hlc {
  return toHlc(BigInt(oneRow<{ clock: string }>(outcome).clock))
}

/** A gid is made by `formatGid` of checked names; a quotation mark cannot be in it, and is doubled all the same. */
export function prepareTransaction(gid: string): Statement {
  return { text: `prepare transaction ${literal(gid)}`, once: true, joined: true }
}

/** Moves a clock past a prepare timestamp; refused beyond the offset. In autocommit. */
export function observe(timestamp: Hlc, wall: Hlc): Statement {
  return {
    text: 'select (holdfast.observe($1::bigint, $2::bigint) - holdfast.wall_hlc()) >> 16 as ahead_ms',
    values: [timestamp, wall],
  }
}

export function rowsOf<R>(outcome: StatementOutcome): R[] {
  return accepted(outcome).rows as (Row & R)[]
}

export function oneRow<R>(outcome: StatementOutcome): R {
  return present(rowsOf<R>(outcome)[0], 'the statement answers one row')
}

function jsonOf(placements: RoutedPlacements): string {
  return JSON.stringify(Object.fromEntries(placements))
}

export function literal(text: string): string {
  return `'${text.replaceAll("'", "''")}'`
}
