import type { Epoch, ShardName, TransactionId } from '../directory/topology.ts'
import type { Hlc } from '../hlc/hlc.ts'
import { toHlc } from '../hlc/hlc.ts'
import type { Statement, StatementOutcome } from '../postgres/statement.ts'
import { rowsOf } from './transaction-store.ts'

/** The statements of accepted clocks (C8), one name each, and how their answers are read. */

/** A decision that somebody wants accepted. */
export interface AcceptedDecision {
  readonly transactionId: TransactionId
  readonly gid: string
  readonly home: ShardName
  readonly homeEpoch: Epoch
  readonly commitTimestamp: Hlc
  /** Of the servers of the other shards, as far as they answered. */
  readonly walls: ReadonlyMap<ShardName, Hlc>
}

export interface AcceptedBy {
  readonly actor: string
  readonly reason: string
}

/** A row: who let the clock of its shard pass which decision, when, why, and by which walls. */
export interface ClockAcceptance extends Omit<AcceptedDecision, 'gid'>, AcceptedBy {
  /** Where the clock was. It is moved to `commitTimestamp`. */
  readonly clockBefore: Hlc
  /** Of the shard's server. */
  readonly wall: Hlc
  /** Of who ran it. */
  readonly witness: Hlc
  readonly maxClockOffsetMs: number
  readonly acceptedAtMs: number
}

const columns = `transaction_id::text, home, home_epoch, commit_timestamp::text, clock_before::text, wall::text, witness::text,
  walls, max_clock_offset_ms, actor, reason, extract(epoch from accepted_at)::float8 * 1000 as accepted_at_ms`

/** For an administrator. Told twice, it answers the row that stands. */
export function acceptClock(
  { transactionId, gid, home, homeEpoch, commitTimestamp, walls }: AcceptedDecision,
  { actor, reason }: AcceptedBy,
  epoch: Epoch,
  witness: Hlc,
): Statement {
  const wallsText = JSON.stringify(Object.fromEntries([...walls].map(([shard, wall]) => [shard, String(wall)])))
  return {
    text: `select ${columns} from holdfast.accept_clock($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)`,
    values: [transactionId, gid, home, homeEpoch, epoch, commitTimestamp, witness, wallsText, actor, reason],
  }
}

/** The last one first. */
export const selectAcceptances: Statement = {
  text: `select ${columns} from holdfast.clock_acceptance order by accepted_at desc, transaction_id`,
}

export function readAcceptances(outcome: StatementOutcome): ClockAcceptance[] {
  return rowsOf<Row>(outcome).map((row) => ({
    transactionId: row.transaction_id,
    home: row.home,
    homeEpoch: row.home_epoch,
    commitTimestamp: fromText(row.commit_timestamp),
    clockBefore: fromText(row.clock_before),
    wall: fromText(row.wall),
    witness: fromText(row.witness),
    walls: new Map(Object.entries(row.walls).map(([shard, wall]) => [shard as ShardName, fromText(wall)])),
    maxClockOffsetMs: row.max_clock_offset_ms,
    actor: row.actor,
    reason: row.reason,
    acceptedAtMs: row.accepted_at_ms,
  }))
}

interface Row {
  readonly transaction_id: TransactionId
  readonly home: ShardName
  readonly home_epoch: Epoch
  readonly commit_timestamp: string
  readonly clock_before: string
  readonly wall: string
  readonly witness: string
  readonly walls: Readonly<Record<string, string>>
  readonly max_clock_offset_ms: number
  readonly actor: string
  readonly reason: string
  readonly accepted_at_ms: number
}

const fromText = (text: string): Hlc => toHlc(BigInt(text))
