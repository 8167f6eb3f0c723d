import { present } from '../base/assert.ts'
import type { ShardName } from '../directory/topology.ts'
import type { Hlc } from '../hlc/hlc.ts'
import { toHlc } from '../hlc/hlc.ts'
import type { Row, Statement, StatementOutcome } from '../postgres/statement.ts'
import { accepted } from '../postgres/statement.ts'
import type { TimelineEntry, TimelinePosition } from './timeline.ts'

/** Where a page of a shard's history begins: behind this transaction. */
export interface TimelinePlace {
  readonly commitTimestamp: Hlc
  readonly transactionId: string
}

const nilUuid = '00000000-0000-0000-0000-000000000000'

const maxUuid = 'ffffffff-ffff-ffff-ffff-ffffffffffff'

export function placeBefore(commitTimestamp: Hlc): TimelinePlace {
  return { commitTimestamp, transactionId: nilUuid }
}

/** An unattributed commit comes behind all that have its timestamp as their own. */
export function placeBehind({ commitTimestamp, attributed, name }: TimelinePosition): TimelinePlace {
  return { commitTimestamp, transactionId: attributed ? name : maxUuid }
}

/** The clock of a shard as it stands. */
export const readClock: Statement = { text: 'select last_value as timestamp from holdfast.hlc' }

/** Moves the clock past a timestamp, and wakes who closes it. `wall` is this process's, the witness of the server's. */
export function requestClosing(timestamp: Hlc, wall: Hlc): Statement {
  return {
    text: 'select holdfast.request_closing($1::bigint, $2::bigint) as timestamp',
    values: [timestamp, wall],
  }
}

export const readClosed: Statement = { text: 'select closed_timestamp as timestamp from holdfast.closed' }

export function timestampOf(outcome: StatementOutcome | undefined): Hlc {
  const [row] = accepted(present(outcome, 'an outcome a statement')).rows
  return toHlc(BigInt(String(row?.['timestamp'])))
}

/** The next transactions of a shard at or below `through`: its own, and its branches of others once they are settled. */
export function selectHistory(
  after: TimelinePlace,
  through: Hlc,
  tenant: string | undefined,
  limit: number,
): Statement {
  return {
    text: `
      select t.transaction_id, t.commit_timestamp, t.tenant, t.action, t.subject, t.actor, t.participants, t.is_home
      from holdfast.history_of_transactions t
      where t.commit_timestamp between $1 and $3
        and (t.commit_timestamp, t.transaction_id) > ($1, $2::uuid)
        and ($4::text is null or t.tenant = $4)
      order by t.commit_timestamp, t.transaction_id
      limit $5`,
    values: [after.commitTimestamp, after.transactionId, through, tenant ?? null, limit],
  }
}

export function entriesOf(outcome: StatementOutcome | undefined, shard: ShardName): TimelineEntry[] {
  return accepted(present(outcome, 'an outcome a statement')).rows.map((row) => entryOf(row, shard))
}

function entryOf(row: Row, shard: ShardName): TimelineEntry {
  const participants = row['participants'] as string[]
  const id = String(row['transaction_id'])
  return {
    name: id,
    transactionId: id,
    commitTimestamp: toHlc(BigInt(String(row['commit_timestamp']))),
    tenant: String(row['tenant']),
    action: String(row['action']),
    subject: String(row['subject']),
    actor: String(row['actor']),
    shards: row['is_home'] === true ? [shard, ...participants] : participants,
    attributed: true,
  }
}
