import { present } from '../base/assert.ts'
import type { TransactionId } from '../directory/topology.ts'
import type { Hlc } from '../hlc/hlc.ts'
import { maxHlc, toHlc } from '../hlc/hlc.ts'
import type { Connection } from '../postgres/connection.ts'
import { accepted } from '../postgres/statement.ts'
import type { Lsn } from '../postgres/lsn.ts'
import { parseLsn } from '../postgres/lsn.ts'
import type { RelationMessage } from './pgoutput.ts'
import type { ForeignKey, RelationShape } from './redo-transaction.ts'

/** What the redo stream asks the primary beside the stream. One query, one name. */

export interface SlotState {
  readonly confirmed: Lsn | null
  /** The server took away what it kept, by a limit of its own; the slot cannot be used any more. */
  readonly isLost: boolean
}

/** Undefined when there is no such slot. */
export async function readSlot(connection: Connection, slot: string): Promise<SlotState | undefined> {
  const { rows } = await connection.query<{ confirmed: string | null; lost: boolean }>(
    `select confirmed_flush_lsn::text as confirmed, wal_status is not distinct from 'lost' as lost
     from pg_replication_slots where slot_name = $1`,
    [slot],
  )
  const [row] = rows
  return row && { confirmed: row.confirmed === null ? null : parseLsn(row.confirmed), isLost: row.lost }
}

export interface RedoMarks {
  /** Every transaction at or below it had its commit record before `writtenLsn`. */
  readonly closedTimestamp: Hlc
  readonly writtenLsn: Lsn
  /** What ends at or before it cannot be lost in a promotion. */
  readonly replicatedLsn: Lsn
}

/** The closed timestamp comes from the snapshot, the position from after it: in this order they belong together. */
export async function readMarks(connection: Connection): Promise<RedoMarks> {
  const { rows } = await connection.query<{ closed: string; written: string; replicated: string }>(
    `select c.closed_timestamp::text as closed, pg_current_wal_insert_lsn()::text as written,
       holdfast.replicated_through()::text as replicated
     from holdfast.closed c`,
  )
  const row = present(rows[0], 'a founded shard has one row of closed timestamps')
  return {
    closedTimestamp: toHlc(BigInt(row.closed)),
    writtenLsn: parseLsn(row.written),
    replicatedLsn: parseLsn(row.replicated),
  }
}

/** The highest commit timestamp that this shard shows now. */
export async function readHighestStamp(connection: Connection): Promise<Hlc> {
  const outcomes = await connection.flight([
    { text: 'select coalesce(max(commit_timestamp), 0)::text as stamp from holdfast.commit_log' },
    { text: 'select coalesce(max(commit_timestamp), 0)::text as stamp from holdfast.decision' },
  ])
  const [own, decided] = outcomes.map((outcome) => toHlc(BigInt(String(accepted(outcome).rows[0]?.['stamp']))))
  return maxHlc(present(own, 'two answers'), present(decided, 'two answers'))
}

/** What the clock of this shard has come to: no transaction that was stamped or decided here so far has a timestamp above it. */
export async function readClock(connection: Connection): Promise<Hlc> {
  const { rows } = await connection.query<{ clock: string }>('select last_value::text as clock from holdfast.hlc')
  return toHlc(BigInt(present(rows[0], 'a sequence has one row').clock))
}

/** The commit timestamp of a settled branch, for one whose decision the stream did not bring. */
export async function readDecision(connection: Connection, transactionId: TransactionId): Promise<Hlc | undefined> {
  const { rows } = await connection.query<{ stamp: string }>(
    `select commit_timestamp::text as stamp from holdfast.decision where transaction_id = $1 and outcome = 'COMMITTED'`,
    [transactionId],
  )
  return rows[0] && toHlc(BigInt(rows[0].stamp))
}

/** Makes the server log which transactions run now: from there on the slot needs nothing older. */
export async function logRunningTransactions(connection: Connection): Promise<void> {
  await connection.query('select pg_log_standby_snapshot()')
}

const typesSql = `select format_type(t.id, t.modifier) as type
  from unnest($1::oid[], $2::int[]) with ordinality t(id, modifier, place) order by t.place`

const primaryKeySql = `select a.attname as name
  from pg_index i
  cross join lateral unnest(i.indkey::int2[]) with ordinality k(attnum, place)
  join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum
  where i.indrelid = $1 and i.indisprimary
  order by k.place`

const foreignKeysSql = `select c.conname as name, n.nspname as schema, f.relname as table,
    array(select a.attname::text from unnest(c.conkey) with ordinality k(attnum, place)
          join pg_attribute a on a.attrelid = c.conrelid and a.attnum = k.attnum order by k.place) as columns,
    array(select a.attname::text from unnest(c.confkey) with ordinality k(attnum, place)
          join pg_attribute a on a.attrelid = c.confrelid and a.attnum = k.attnum order by k.place) as referenced
  from pg_constraint c
  join pg_class f on f.oid = c.confrelid
  join pg_namespace n on n.oid = f.relnamespace
  where c.conrelid = $1 and c.contype = 'f'
  order by c.conname`

/** A column draws from a sequence that it owns, or that its default names. */
const sequencesSql = `select distinct on (a.attname) a.attname as name, n.nspname || '.' || s.relname as sequence
  from pg_attribute a
  left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
  join pg_depend p on
    (p.classid = 'pg_class'::regclass and p.refclassid = 'pg_class'::regclass and p.refobjid = a.attrelid
      and p.refobjsubid = a.attnum and p.deptype in ('a', 'i'))
    or (p.classid = 'pg_attrdef'::regclass and p.objid = d.oid and p.refclassid = 'pg_class'::regclass)
  join pg_class s on s.relkind = 'S' and s.oid = case p.classid when 'pg_class'::regclass then p.objid else p.refobjid end
  join pg_namespace n on n.oid = s.relnamespace
  where a.attrelid = $1 and a.attnum > 0 and not a.attisdropped
  order by a.attname, p.classid = 'pg_class'::regclass desc`

/**
 * The shape of a relation: its columns as the stream has them, with what only the catalogue knows. The catalogue may
 * be further than the stream: keys over columns that the stream does not have yet, or any more, are left out.
 */
export async function describeRelation(connection: Connection, message: RelationMessage): Promise<RelationShape> {
  const { id, schema, table, replicaIdentity, columns } = message
  const outcomes = await connection.flight([
    { text: typesSql, values: [columns.map((column) => column.typeId), columns.map((column) => column.typeModifier)] },
    { text: primaryKeySql, values: [id] },
    { text: foreignKeysSql, values: [id] },
    { text: sequencesSql, values: [id] },
  ])
  const [types, primary, foreign, sequences] = outcomes.map((outcome) => accepted(outcome).rows)
  const names = new Set(columns.map(({ name }) => name))
  const sequenceOf = new Map(sequences?.map((row) => [String(row['name']), String(row['sequence'])]))
  const primaryKey = (primary ?? []).map((row) => String(row['name']))
  const foreignKeys = (foreign as ForeignKeyRow[] | undefined)?.map(toForeignKey) ?? []
  return {
    schema,
    table,
    columns: columns.map(({ name }, index) => ({
      name,
      type: String(types?.[index]?.['type']),
      sequence: sequenceOf.get(name) ?? null,
    })),
    replicaIdentity,
    primaryKey: primaryKey.every((name) => names.has(name)) ? primaryKey : [],
    foreignKeys: foreignKeys.filter((key) => key.columns.every((name) => names.has(name))),
  }
}

interface ForeignKeyRow {
  readonly name: string
  readonly schema: string
  readonly table: string
  readonly columns: string[]
  readonly referenced: string[]
}

function toForeignKey({ name, schema, table, columns, referenced }: ForeignKeyRow): ForeignKey {
  return { name, columns, references: `${schema}.${table}`, referencedColumns: referenced }
}
