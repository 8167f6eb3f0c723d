import { present } from '../../base/assert.ts'
import type { TransactionId } from '../../directory/topology.ts'
import type { Hlc } from '../../hlc/hlc.ts'
import { hlcZero, toHlc } from '../../hlc/hlc.ts'
import type { Connection } from '../../postgres/connection.ts'
import type { Row, StatementResult } from '../../postgres/statement.ts'
import { accepted } from '../../postgres/statement.ts'

/** One row of the outbox, with the place of its transaction in history. */
export interface OutboxEvent {
  readonly eventId: string
  readonly transactionId: TransactionId
  readonly ordinal: number
  readonly commitTimestamp: Hlc
  readonly tenant: string
  readonly name: string
  /** JSON text. */
  readonly payload: string
}

/** A place in the order of the outbox: by commit timestamp, ties by transaction id, then by the order of emission. */
export interface OutboxCursor {
  readonly commitTimestamp: Hlc
  readonly transactionId: string
  readonly ordinal: number
}

export const outboxStart: OutboxCursor = {
  commitTimestamp: hlcZero,
  transactionId: '00000000-0000-0000-0000-000000000000',
  ordinal: 0,
}

/** Past every transaction at or below a timestamp. */
export function cursorPast(commitTimestamp: Hlc): OutboxCursor {
  return { commitTimestamp, transactionId: 'ffffffff-ffff-ffff-ffff-ffffffffffff', ordinal: 0 }
}

export function cursorOf(event: OutboxEvent): OutboxCursor {
  const { commitTimestamp, transactionId, ordinal } = event
  return { commitTimestamp, transactionId, ordinal }
}

/** No answer within this: the server or the link is gone. */
const answerWithinMs = 10_000

export interface ShardState {
  readonly open: boolean
  readonly epoch: number
  readonly closedTimestamp: Hlc
}

export interface OutboxPage extends ShardState {
  /** Read after the state: no transaction at or below its closed timestamp is missing for not being visible yet. */
  readonly events: readonly OutboxEvent[]
}

const shardStateSql = `select s.state = 'open' as open, s.epoch, c.closed_timestamp from holdfast.shard s, holdfast.closed c`

const behindSql = `
  from holdfast.commit_log l
  join holdfast.outbox o using (transaction_id)
  where (l.commit_timestamp, l.transaction_id) >= ($1, $2::uuid)
    and (l.commit_timestamp, l.transaction_id, o.ordinal) > ($1, $2::uuid, $3)
  order by l.commit_timestamp, l.transaction_id, o.ordinal
  limit $4`

const placeColumns = 'o.event_id, o.transaction_id, o.ordinal, l.commit_timestamp'
const placesSql = `select ${placeColumns} ${behindSql}`
const eventsSql = `select ${placeColumns}, o.tenant, o.name, o.payload::text as payload ${behindSql}`

/** The next events after a place, in order, in one round trip. */
export async function readOutbox(connection: Connection, after: OutboxCursor, limit: number): Promise<OutboxPage> {
  const [state, events] = await connection.flight(
    [{ text: shardStateSql }, { text: eventsSql, values: behind(after, limit) }],
    answerWithinMs,
  )
  return {
    ...stateFrom(accepted(present(state, 'the state of the shard'))),
    events: accepted(present(events, 'the events')).rows.map(eventFromRow),
  }
}

/** The same of an event, without what it says. */
export type EventPlace = OutboxCursor & Pick<OutboxEvent, 'eventId'>

export async function readEventPlaces(
  connection: Connection,
  after: OutboxCursor,
  limit: number,
): Promise<EventPlace[]> {
  const { rows } = await connection.query(placesSql, behind(after, limit), answerWithinMs)
  return rows.map(placeFromRow)
}

/** When the first of some events was committed, of those that are in this history; null when none is. */
export async function firstCommitted(connection: Connection, eventIds: readonly string[]): Promise<Hlc | null> {
  const { rows } = await connection.query<{ first: string | null }>(
    `select min(l.commit_timestamp)::text as first
     from holdfast.outbox o join holdfast.commit_log l using (transaction_id) where o.event_id = any($1::uuid[])`,
    [eventIds],
    answerWithinMs,
  )
  const { first } = present(rows[0], 'an aggregate has a row')
  return first === null ? null : toHlc(BigInt(first))
}

function behind({ commitTimestamp, transactionId, ordinal }: OutboxCursor, limit: number) {
  return [commitTimestamp, transactionId, ordinal, limit]
}

export async function readShardState(connection: Connection): Promise<ShardState> {
  return stateFrom(await connection.query(shardStateSql, [], answerWithinMs))
}

function stateFrom({ rows }: StatementResult): ShardState {
  const row = present(rows[0], 'a founded shard has its two rows')
  return {
    open: row['open'] === true,
    epoch: Number(row['epoch']),
    closedTimestamp: toHlc(BigInt(String(row['closed_timestamp']))),
  }
}

function placeFromRow(row: Row) {
  return {
    eventId: String(row['event_id']),
    transactionId: String(row['transaction_id']) as TransactionId,
    ordinal: Number(row['ordinal']),
    commitTimestamp: toHlc(BigInt(String(row['commit_timestamp']))),
  }
}

function eventFromRow(row: Row): OutboxEvent {
  return {
    ...placeFromRow(row),
    tenant: String(row['tenant']),
    name: String(row['name']),
    payload: String(row['payload']),
  }
}
