import { redoSlot, walSlot } from '../archive/archiver.ts'
import { present } from '../base/assert.ts'
import type { Epoch, HistoryId, ShardName, TransactionId } from '../directory/topology.ts'
import type { Hlc } from '../hlc/hlc.ts'
import { toHlc } from '../hlc/hlc.ts'
import type { Connection } from '../postgres/connection.ts'
import { quoteIdentifier, quoteRelation } from '../postgres/identifier.ts'
import type { Lsn } from '../postgres/lsn.ts'
import { formatLsn, parseLsn } from '../postgres/lsn.ts'
import type { Stop } from './cut.ts'

/** Queries on a restored server, as its administrator. */

interface ReplayState {
  readonly inRecovery: boolean
  readonly paused: boolean
  readonly replayed: Lsn | null
}

export async function readReplayState(admin: Connection): Promise<ReplayState> {
  const { rows } = await admin.query<{ in_recovery: boolean; paused: boolean; replayed: string | null }>(
    `select pg_is_in_recovery() as in_recovery, pg_last_wal_replay_lsn()::text as replayed,
       case when pg_is_in_recovery() then pg_get_wal_replay_pause_state() = 'paused' else false end as paused`,
  )
  const row = present(rows[0], 'one row')
  return {
    inRecovery: row.in_recovery,
    paused: row.paused,
    replayed: row.replayed === null ? null : parseLsn(row.replayed),
  }
}

/** The timeline that is written to now; the control file tells it only after the next checkpoint. */
export async function readTimeline(admin: Connection): Promise<number> {
  const { rows } = await admin.query<{ name: string }>('select pg_walfile_name(pg_current_wal_lsn()) as name')
  return Number.parseInt(present(rows[0], 'one row').name.slice(0, 8), 16)
}

export async function readPreparedGids(admin: Connection): Promise<string[]> {
  const { rows } = await admin.query<{ gid: string }>(
    'select gid from pg_prepared_xacts where database = current_database() order by prepared',
  )
  return rows.map(({ gid }) => gid)
}

/** Decisions that a restored server holds over these transactions, as their home, also of late, or as a participant. */
export async function readDecisions(
  admin: Connection,
  ids: readonly TransactionId[],
): Promise<Map<TransactionId, Hlc | null>> {
  const { rows } = await admin.query<{ id: TransactionId; stamp: string | null }>(
    `select transaction_id as id, commit_timestamp::text as stamp
     from holdfast.transaction_record where transaction_id = any($1)
     union all select transaction_id, commit_timestamp::text from holdfast.decision where transaction_id = any($1)
     union all select transaction_id, commit_timestamp::text from holdfast.commit_log where transaction_id = any($1)`,
    [ids],
  )
  return new Map(rows.map(({ id, stamp }) => [id, stamp === null ? null : toHlc(BigInt(stamp))]))
}

/** A settled branch has its decision beside it, also where the row that the participant wrote lies behind the stop. */
export async function recordDecisionOfBranch(admin: Connection, id: TransactionId, timestamp: Hlc): Promise<void> {
  await admin.query(
    `insert into holdfast.decision (transaction_id, outcome, commit_timestamp, home, home_epoch)
     select transaction_id, 'COMMITTED', $2, home, home_epoch from holdfast.branch where transaction_id = $1
     on conflict do nothing`,
    [id, timestamp],
  )
}

/** No traffic, whatever reaches it; no waiting for followers that are not there. */
export async function isolate(admin: Connection): Promise<void> {
  await admin.query(`update holdfast.shard set state = 'fenced'`)
}

/**
 * Keeps the log from here on for the archive, should the server be taken over: what is redone then reaches the archive
 * like anything else. A logical slot cannot be made before all prepared transactions have ended.
 */
export async function keepLog(admin: Connection): Promise<void> {
  await admin.query(
    `select pg_create_physical_replication_slot($1, true)
     where not exists (select from pg_replication_slots where slot_name = $1)`,
    [walSlot],
  )
}

export async function keepRedo(admin: Connection): Promise<void> {
  await admin.query(
    `select pg_create_logical_replication_slot($1, 'pgoutput')
     where not exists (select from pg_replication_slots where slot_name = $1)`,
    [redoSlot],
  )
}

/** Which of these transactions the server shows: at home here, or as a branch. */
export async function readThere(admin: Connection, ids: readonly TransactionId[]): Promise<Set<TransactionId>> {
  const { rows } = await admin.query<{ id: TransactionId }>(
    `select transaction_id as id from holdfast.commit_log where transaction_id = any($1)
     union all select transaction_id from holdfast.branch where transaction_id = any($1)`,
    [ids],
  )
  return new Set(rows.map(({ id }) => id))
}

/** What was redone is marked in the same transaction, so that it is redone once however often the redo is run again. */
export async function ensureMarkers(admin: Connection): Promise<void> {
  await admin.script(`create schema if not exists holdfast_restore;
    create table if not exists holdfast_restore.redone (commit_lsn pg_lsn primary key)`)
}

export const markRedone = 'insert into holdfast_restore.redone (commit_lsn) values ($1)'

/** Which of these are marked. */
export async function readRedone(admin: Connection, commits: readonly Lsn[]): Promise<Set<Lsn>> {
  const { rows } = await admin.query<{ lsn: string }>(
    'select commit_lsn::text as lsn from holdfast_restore.redone where commit_lsn = any($1)',
    [commits.map(formatLsn)],
  )
  return new Set(rows.map(({ lsn }) => parseLsn(lsn)))
}

export async function dropMarkers(admin: Connection): Promise<void> {
  await admin.query('drop schema if exists holdfast_restore cascade')
}

export async function moveClock(admin: Connection, past: Hlc): Promise<void> {
  await admin.query('select holdfast.move_clock($1, $1)', [past])
}

/** Foreign keys with a row that refers to nothing, each with how many. Redo runs without their triggers. */
export async function findBrokenReferences(admin: Connection): Promise<{ constraint: string; rows: number }[]> {
  const { rows } = await admin.query<ForeignKeyRow>(
    `select c.conname as name, cn.nspname || '.' || ch.relname as child, pn.nspname || '.' || pa.relname as parent,
       (select array_agg(a.attname::text order by k.n) from unnest(c.conkey) with ordinality k(attnum, n)
        join pg_attribute a on a.attrelid = c.conrelid and a.attnum = k.attnum) as columns,
       (select array_agg(a.attname::text order by k.n) from unnest(c.confkey) with ordinality k(attnum, n)
        join pg_attribute a on a.attrelid = c.confrelid and a.attnum = k.attnum) as referenced
     from pg_constraint c
     join pg_class ch on ch.oid = c.conrelid join pg_namespace cn on cn.oid = ch.relnamespace
     join pg_class pa on pa.oid = c.confrelid join pg_namespace pn on pn.oid = pa.relnamespace
     where c.contype = 'f' and c.conparentid = 0 and c.convalidated`,
  )
  const broken: { constraint: string; rows: number }[] = []
  for (const key of rows) {
    const pairs = key.columns.map((column, index) => {
      const referenced = present(key.referenced[index], 'a foreign key refers to as many columns as it has')
      return `p.${quoteIdentifier(referenced)} = c.${quoteIdentifier(column)}`
    })
    const complete = key.columns.map((column) => `c.${quoteIdentifier(column)} is not null`)
    const found = await admin.query<{ count: string }>(
      `select count(*)::text as count from ${quoteRelation(key.child)} c
       where ${complete.join(' and ')}
         and not exists (select from ${quoteRelation(key.parent)} p where ${pairs.join(' and ')})`,
    )
    const count = Number(found.rows[0]?.count)
    if (count > 0) broken.push({ constraint: `${key.child} ${key.name}`, rows: count })
  }
  return broken
}

interface ForeignKeyRow {
  readonly name: string
  readonly child: string
  readonly parent: string
  readonly columns: readonly string[]
  readonly referenced: readonly string[]
}

/** Outbox events whose transaction is not in the history of this server. */
export async function countOrphanEvents(admin: Connection): Promise<number> {
  const { rows } = await admin.query<{ count: string }>(
    `select count(*)::text as count from holdfast.outbox o
     where not exists (select from holdfast.commit_log l where l.transaction_id = o.transaction_id)`,
  )
  return Number(rows[0]?.count)
}

interface RoleRow {
  readonly name: string
  readonly verifier: string | null
}

export async function readRoles(admin: Connection, names: readonly string[]): Promise<RoleRow[]> {
  const { rows } = await admin.query<{ name: string; verifier: string | null }>(
    'select rolname::text as name, rolpassword as verifier from pg_authid where rolname = any($1) and rolcanlogin',
    [names],
  )
  return rows
}

export async function readShardState(admin: Connection): Promise<{ state: string; epoch: number; archiving: string }> {
  const { rows } = await admin.query<{ state: string; epoch: number; archiving: string }>(
    `select state, epoch, current_setting('archive_mode') as archiving from holdfast.shard`,
  )
  return present(rows[0], 'a founded shard has its row')
}

export async function readImpermanentRelations(admin: Connection): Promise<string[]> {
  const { rows } = await admin.query<{ name: string }>('select name from holdfast.impermanent_relations() as name')
  return rows.map(({ name }) => name)
}

/** How a shard of the fleet stands at its data, and whether this history is among those that it has had. */
export async function readLineage(
  admin: Connection,
  historyId: HistoryId,
): Promise<{ epoch: Epoch; state: string; isHere: boolean }> {
  const { rows } = await admin.query<{ epoch: Epoch; state: string; isHere: boolean }>(
    `select s.epoch, s.state, exists (select from holdfast.history h where h.history_id = $1) as "isHere"
     from holdfast.shard s`,
    [historyId],
  )
  return present(rows[0], 'a founded shard has its row')
}

/** The history of the environment becomes the shard's. What earlier histories left out stays left out. */
export async function openHistory(
  admin: Connection,
  next: {
    readonly historyId: HistoryId
    readonly epoch: Epoch
    readonly fork: Stop
    readonly leftOut: readonly TransactionId[]
  },
): Promise<void> {
  const { historyId, epoch, fork, leftOut } = next
  const forkLsn = formatLsn(fork.kind === 'before' ? fork.lsn : fork.through)
  // The procedure reads the timeline from the control file, which is of the last checkpoint.
  await admin.query('checkpoint')
  const { rows } = await admin.query<{ ids: TransactionId[] }>(
    `select array(select unnest($1::uuid[]) union select unnest(left_out) from holdfast.history)::text[] as ids`,
    [leftOut],
  )
  await admin.query(`call holdfast.open_history($1, $2, $3, 'cutover', $4)`, [
    historyId,
    epoch,
    forkLsn,
    present(rows[0], 'one row').ids,
  ])
}

/** From here on a settlement by a coordinator of an older epoch is refused. */
export async function rememberEpochs(
  admin: Connection,
  shards: readonly { readonly shard: ShardName; readonly epoch: Epoch }[],
): Promise<void> {
  for (const { shard, epoch } of shards) {
    await admin.query(
      `insert into holdfast.peer as p (shard, epoch)
       select $1, $2 where $1 <> (select shard from holdfast.shard)
       on conflict (shard) do update set epoch = excluded.epoch where p.epoch < excluded.epoch`,
      [shard, epoch],
    )
  }
}

/** Opens a shard that is fenced at exactly this epoch; says whether it was. */
export async function reopenShard(admin: Connection, epoch: Epoch): Promise<boolean> {
  const { rowCount } = await admin.query(`update holdfast.shard set state = 'open' where epoch = $1`, [epoch])
  return rowCount === 1
}
