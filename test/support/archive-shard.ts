import { bind } from './bind.ts'
import { randomUUID } from 'node:crypto'
import { present } from '../../src/base/assert.ts'
import { newTimeOrderedUuid } from '../../src/base/random.ts'
import type { Durability } from '../../src/directory/topology.ts'
import type { ConnectionTarget } from '../../src/postgres/statement.ts'
import { Connection } from '../../src/postgres/connection.ts'
import { installSchema } from '../../src/postgres/schema.ts'
import type { LocalServer } from '../../src/postgres/server/local-server.ts'
import type { Settings } from '../../src/postgres/server/data-directory.ts'
import { acknowledgedBy, startAcknowledging, untilInForce } from './acknowledging-follower.ts'
import type { Running } from './archive.ts'
import { testShard } from './archive.ts'
import type { ServerYard } from './servers.ts'

/** A founded shard of one server, with a governed table, whose transactions are written by hand. */

export const archiveSettings = {
  wal_level: 'logical',
  max_wal_senders: 10,
  max_replication_slots: 10,
  max_prepared_transactions: 10,
  wal_keep_size: '256MB',
  wal_writer_delay: '10ms',
}

export const peerShard = 'us-east/treasury'

export function shardTarget(yard: ServerYard, server: LocalServer, user = 'holdfast_replication'): ConnectionTarget {
  return { ...yard.target(server), user, database: 'holdfast' }
}

/** One of durability `quorum` takes commits once they wait for somebody: see `followServer`. */
export async function foundShard(yard: ServerYard, server: LocalServer, durability: Durability): Promise<void> {
  const maintenance = await yard.connect(server)
  await maintenance.query('create database holdfast')
  maintenance.release()
  const admin = await Connection.connect(shardTarget(yard, server, 'holdfast_admin'), 10_000)
  await installSchema(admin)
  for (const role of ['holdfast_gateway', 'holdfast_app', 'holdfast_replication']) {
    await admin.query('call holdfast.set_role_password($1, $2)', [role, yard.password])
  }
  await admin.query('call holdfast.found_shard($1, $2, $3, $4, 500)', ['test', testShard, durability, randomUUID()])
  await admin.script(`
    insert into holdfast.placement (tenant, domain, shard, version, policy, policy_version)
      values ('globex-eu', 'payroll', '${testShard}', 1, '{}', 1);
    create table payroll_runs (id bigserial primary key, tenant text not null, status text not null, note text);
    alter table payroll_runs alter column note set storage external;
    create table payroll_items (
      run bigint not null references payroll_runs, line int not null, tenant text not null, cents bigint not null,
      primary key (run, line));
    call holdfast.govern('payroll_runs', 'payroll', 'regulated');
    call holdfast.govern('payroll_items', 'payroll', 'regulated');
  `)
  admin.release()
}

/** Lets the commits of a server wait for a follower that acknowledges them. Stop it before the server. */
export async function followServer(yard: ServerYard, server: LocalServer, settings: Settings): Promise<Running> {
  const follower = startAcknowledging(yard.target(server))
  await server.configure({ ...settings, synchronous_standby_names: acknowledgedBy })
  await untilInForce(yard.target(server), acknowledgedBy)
  return follower
}

/** Commits statements as one transaction of this shard; its id and stamp come back. */
export async function commitHome(
  connection: Connection,
  statements: readonly string[],
  action = 'payroll.test',
): Promise<{ transactionId: string; commitTimestamp: bigint }> {
  const transactionId = newTimeOrderedUuid()
  await connection.query('begin')
  await open(connection, transactionId)
  for (const statement of statements) await connection.query(statement)
  const { rows } = await connection.query<{ stamp: string }>(
    `select holdfast.stamp($1, 'globex-eu', 1, null, $2, 'apr-2026', 'manager@globex.example', '{"payroll":1}', '{}', 0, null, '[]')::text as stamp`,
    [transactionId, action],
  )
  await connection.query('commit')
  return { transactionId, commitTimestamp: BigInt(present(rows[0], 'a stamp').stamp) }
}

/** Prepares a branch of another shard's transaction here. */
export async function prepareBranch(
  connection: Connection,
  statements: readonly string[],
): Promise<{ transactionId: string; gid: string }> {
  const transactionId = newTimeOrderedUuid()
  const gid = `hf_test_${peerShard}_${transactionId}_${testShard}`
  await connection.query('begin')
  await open(connection, transactionId)
  for (const statement of statements) await connection.query(statement)
  await connection.query(
    `select holdfast.prepare_branch($1, 'globex-eu', 1, $2, $3, 1, array[$4]::text[], 'payroll.test', 'apr-2026', 'manager@globex.example',
       '{"payroll":1}', 0, holdfast.wall_hlc())`,
    [transactionId, gid, peerShard, testShard],
  )
  await connection.query(`prepare transaction '${gid}'`)
  return { transactionId, gid }
}

export async function decide(connection: Connection, transactionId: string, commitTimestamp: bigint): Promise<void> {
  await connection.query('select holdfast.observe_decided($1, $1)', [commitTimestamp])
  await connection.query(`select holdfast.record_decision($1, 'COMMITTED', $2, $3, 1)`, [
    transactionId,
    commitTimestamp,
    peerShard,
  ])
}

async function open(connection: Connection, transactionId: string): Promise<void> {
  await connection.flight([bind('globex-eu', transactionId)])
}
