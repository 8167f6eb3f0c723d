import type { Connection } from '../postgres/connection.ts'
import { quoteIdentifier, quoteRelation } from '../postgres/identifier.ts'

/** Queries on the sequences of a restored server, as its administrator. */

/** A column whose values come from a sequence. */
export interface DrawingColumn {
  readonly relation: string
  readonly name: string
  readonly sequence: string
}

export interface Drawing {
  /** How a value shows the number that was drawn: it is one, or it ends with one; `opaque` when nobody can tell. */
  readonly shows: 'number' | 'text' | 'opaque'
  /** What the sequence can draw. A value outside was made in another way. */
  readonly least: bigint
  readonly greatest: bigint
}

/** A restored server may be from before the column or the sequence, or from behind it: then null. */
export async function readDrawing(admin: Connection, column: DrawingColumn): Promise<Drawing | null> {
  const { rows } = await admin.query<{ shows: Drawing['shows']; least: string; greatest: string }>(
    `select q.seqmin::text as least, q.seqmax::text as greatest,
       case when q.seqincrement < 0 then 'opaque'
         when t.typcategory = 'S' then 'text'
         when coalesce(nullif(t.typbasetype, 0), t.oid) = any('{int2,int4,int8,numeric}'::regtype[]) then 'number'
         else 'opaque' end as shows
     from pg_attribute a
     join pg_type t on t.oid = a.atttypid
     join pg_sequence q on q.seqrelid = to_regclass($3)
     where a.attrelid = to_regclass($1) and a.attname = $2 and not a.attisdropped`,
    [quoteRelation(column.relation), column.name, quoteRelation(column.sequence)],
  )
  const [row] = rows
  return row === undefined ? null : { shows: row.shows, least: BigInt(row.least), greatest: BigInt(row.greatest) }
}

/**
 * Moves the sequence of a column past everything that the column holds and that the stream has seen in it. One that nobody drew
 * from stands at its first number all the same, so that number moves it as well.
 */
export async function moveSequence(
  admin: Connection,
  column: DrawingColumn,
  { shows, least, greatest }: Drawing,
  seen: bigint | null,
): Promise<void> {
  const [sequence, table] = [quoteRelation(column.sequence), quoteRelation(column.relation)]
  const name = quoteIdentifier(column.name)
  const held =
    shows === 'number'
      ? `select max(${name})::bigint from ${table} where ${name} between $3::bigint and $4::bigint`
      : `select max(n)::bigint from (select substring(${name}::text from '[0-9]+$')::numeric as n from ${table}) d
         where n between $3::bigint and $4::bigint`
  await admin.query(
    `select setval($1::regclass, h.highest)
     from ${sequence} s, (select greatest($2::bigint, (${held})) as highest) h
     where h.highest >= s.last_value`,
    [sequence, seen, least, greatest],
  )
}
