import type { ShardName, TransactionId } from '../directory/topology.ts'
import type { Hlc } from '../hlc/hlc.ts'
import type { Connection } from '../postgres/connection.ts'
import type { GlobalTransactions } from './wholeness.ts'

/** Queries that compare a restored server with its archive, within one session, and with others, as its administrator. */

/** A stamped transaction of the redo stream. */
export interface Archived {
  readonly id: TransactionId
  readonly isWanted: boolean
}

/** What differs: how many, and some of them by name. */
export interface Differing {
  readonly count: number
  readonly names: readonly string[]
}

const namesMax = 5

export async function beginComparison(admin: Connection): Promise<void> {
  await admin.script(`drop table if exists pg_temp.archived;
    create temporary table archived (transaction_id uuid not null, is_wanted boolean not null)`)
}

export async function addArchived(admin: Connection, transactions: readonly Archived[]): Promise<void> {
  await admin.query('insert into pg_temp.archived select * from unnest($1::uuid[], $2::boolean[])', [
    transactions.map(({ id }) => id),
    transactions.map(({ isWanted }) => isWanted),
  ])
}

/** To be called once all are added. Nothing else counts the rows of a temporary table, by which the joins are planned. */
export async function countArchived(admin: Connection): Promise<void> {
  await admin.script('analyze pg_temp.archived')
}

export async function endComparison(admin: Connection): Promise<void> {
  await admin.script('drop table pg_temp.archived')
}

/** Every stamped transaction that the server shows: those at home here, and the branches of others. */
const shown = `select transaction_id as id, commit_timestamp as stamp from holdfast.commit_log
  union all
  select b.transaction_id, d.commit_timestamp from holdfast.branch b left join holdfast.decision d using (transaction_id)`

export async function findMissing(admin: Connection): Promise<Differing> {
  return readDiffering(
    admin,
    `with shown as (${shown})
     select a.transaction_id as id from pg_temp.archived a
     where a.is_wanted and not exists (select from shown s where s.id = a.transaction_id)`,
  )
}

/**
 * The stream may begin after the shard, and a log may go further than the stream. What lies in the log before its
 * beginning may have a higher stamp than what lies behind: a branch is settled long after it was decided.
 *
 * A join, so that it takes as long for a row however many there are: `exists` beside an `or` is run anew for each.
 */
export async function findUnexpected(
  admin: Connection,
  stream: { readonly newestBefore: Hlc | null; readonly isBeyondStream: boolean },
): Promise<Differing> {
  return readDiffering(
    admin,
    `with shown as (${shown}),
       known as (select transaction_id, bool_or(is_wanted) as is_wanted from pg_temp.archived group by transaction_id)
     select s.id from shown s left join known k on k.transaction_id = s.id
     where k.is_wanted is not true
       and (k.transaction_id is not null or not ($2 or $1::bigint is null or coalesce(s.stamp <= $1, false)))`,
    [stream.newestBefore, stream.isBeyondStream],
  )
}

async function readDiffering(admin: Connection, sql: string, values: readonly unknown[] = []): Promise<Differing> {
  const { rows } = await admin.query<{ id: TransactionId; count: string }>(
    `select id, count(*) over ()::text as count from (${sql}) d order by id limit ${namesMax}`,
    values,
  )
  return { count: Number(rows[0]?.count ?? 0), names: rows.map(({ id }) => id) }
}

const isWithin = '($1::uuid is null or transaction_id > $1) and ($2::uuid is null or transaction_id <= $2)'

export async function readGlobals(
  admin: Connection,
  behind: TransactionId | null,
  through: TransactionId | null,
): Promise<GlobalTransactions> {
  const homes = await admin.query<{ transactionId: TransactionId; participants: ShardName[] }>(
    `select transaction_id as "transactionId", participants from holdfast.commit_log
     where cardinality(participants) > 0 and ${isWithin}`,
    [behind, through],
  )
  const branches = await admin.query<{ transactionId: TransactionId; home: ShardName }>(
    `select transaction_id as "transactionId", home from holdfast.branch where ${isWithin}`,
    [behind, through],
  )
  return { homes: homes.rows, branches: branches.rows }
}

/** The id so many behind this one, of those at home here or of the branches of others, whichever is less. */
export async function findBehind(
  admin: Connection,
  behind: TransactionId | null,
  count: number,
): Promise<TransactionId | null> {
  const nth = (table: string) =>
    `(select transaction_id from ${table} where $1::uuid is null or transaction_id > $1 order by 1 offset $2 limit 1)`
  const { rows } = await admin.query<{ id: TransactionId }>(
    `select id from (select ${nth('holdfast.commit_log')} as id union all select ${nth('holdfast.branch')}) ends
     where id is not null order by id limit 1`,
    [behind, count - 1],
  )
  return rows[0]?.id ?? null
}
