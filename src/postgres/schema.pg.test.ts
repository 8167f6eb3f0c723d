import { afterEach, beforeEach, expect, test } from 'vitest'
import { catalogOf } from '../../test/support/catalog.ts'
import type { FreshDatabase } from '../../test/support/database.ts'
import { emptyDatabase } from '../../test/support/database.ts'
import { eventually } from '../../test/support/eventually.ts'
import { release0006, releaseWith } from '../../test/support/releases.ts'
import { Connection } from './connection.ts'
import type { Release } from './release.ts'
import { nameInstalled, nameRelease, packageRelease } from './release.ts'
import { InstallationFailure, installSchema, readInstalled } from './schema.ts'
import { sqlState } from './sqlstate.ts'

const databases: FreshDatabase[] = []
const connections: Connection[] = []

let admin: Connection

async function connect(database: FreshDatabase, role?: string): Promise<Connection> {
  const connection = await Connection.connect(database.target(role), 5_000)
  connections.push(connection)
  return connection
}

async function makeDatabase(): Promise<FreshDatabase> {
  const database = await emptyDatabase()
  databases.push(database)
  return database
}

beforeEach(async () => {
  admin = await connect(await makeDatabase())
})

afterEach(async () => {
  for (const connection of connections.splice(0)) connection.release()
  for (const database of databases.splice(0)) await database.drop()
})

const table = `
  create table accounts (tenant text, id text, primary key (tenant, id));
  insert into accounts values ('globex-eu', 'a'), ('initech-us', 'b');
  call holdfast.govern('accounts', 'payroll', 'regulated')`

/** Every release has these tables, and each founds in its own way. */
const found = `
  insert into holdfast.history (history_id, epoch, timeline, reason)
  values ('00000000-0000-4000-8000-000000000001', 1, 1, 'founded');
  insert into holdfast.shard (fleet, shard, durability, epoch, history_id, state, max_clock_offset_ms)
  values ('test', 'eu-west/payroll', 'local', 1, '00000000-0000-4000-8000-000000000001', 'open', 500);
  insert into holdfast.closed (closed_timestamp) values (0)`

/** A shard of an earlier release, with rows. */
async function foundBefore(at: Connection = admin): Promise<void> {
  await installSchema(at, await release0006())
  await at.script(`${table};${found}`)
}

const accounts = async () => (await admin.query('select tenant, id from accounts order by id')).rows
const bothAccounts = [
  { tenant: 'globex-eu', id: 'a' },
  { tenant: 'initech-us', id: 'b' },
]

test('U1: what was founded by an earlier release has what this one founds, and its rows; again there is nothing to do', async () => {
  await foundBefore()
  expect(await installSchema(admin)).toMatchObject({ kind: 'install' })

  const fresh = await connect(await makeDatabase())
  await installSchema(fresh)
  await fresh.script(`${table};${found}`)
  expect(await catalogOf(admin)).toEqual(await catalogOf(fresh))
  expect(await accounts()).toEqual(bothAccounts)
  expect(nameInstalled(await readInstalled(admin))).toBe(nameRelease(await packageRelease()))

  expect(await installSchema(admin)).toEqual({ kind: 'none needed' })
  const { rows } = await admin.query('select version from public.holdfast_release order by ordinal')
  expect(rows).toEqual([{ version: '0.0.9' }, { version: (await packageRelease()).version }])
})

test('U1: what later releases keep computed is computed from the rows that were there', async () => {
  await foundBefore()
  await admin.script(`
    insert into holdfast.placement (tenant, domain, shard, version, policy, policy_version)
    values ('globex-eu', 'payroll', 'eu-west/payroll', 3, '{}', 1)`)
  await installSchema(admin)
  const kept = async () =>
    (
      await admin.query(
        'select l.shard, l.history_id, l.histories, p.* from holdfast.lineage l, holdfast.placements_shown p',
      )
    ).rows
  const filled = await kept()
  expect(filled).toMatchObject([{ shard: 'eu-west/payroll', tenant: 'globex-eu' }])
  await admin.script('update holdfast.history set epoch = epoch; update holdfast.placement set version = version')
  expect(await kept()).toEqual(filled)
})

test('U1: a database that no release has said its name in is brought to this one', async () => {
  await foundBefore()
  await admin.script('drop table public.holdfast_release')
  expect(await installSchema(admin)).toMatchObject({ kind: 'install' })
  expect(await accounts()).toEqual(bothAccounts)
})

test('U1: a function that changed without a migration is replaced, and so is what was granted on it', async () => {
  const release = await packageRelease()
  const other = `
    create or replace function holdfast.transaction_born_ms(p_transaction uuid) returns bigint
    language sql immutable as $$ select -1::bigint $$;
    grant execute on function holdfast.transaction_born_ms(uuid), holdfast.impermanent_relations() to holdfast_app`
  await installSchema(admin, { ...release, functions: [...release.functions, { name: '99-other.sql', text: other }] })
  expect(await installSchema(admin)).toEqual({ kind: 'install', pending: [] })
  const { rows } = await admin.query(
    `select holdfast.transaction_born_ms('00000000-0001-7000-8000-000000000000') as ms,
       has_function_privilege('holdfast_app', 'holdfast.impermanent_relations()', 'execute') as granted`,
  )
  expect(rows).toEqual([{ ms: '1', granted: false }])
})

test('U1: a statement that fails leaves the release before, whole, and is named', async () => {
  await foundBefore()
  const before = await catalogOf(admin)
  const failing = await releaseWith({
    name: '9999-failing.sql',
    text: 'create table holdfast.half (id integer);\n-- Divides.\nselect 1 / 0;\nselect 2',
  })
  const failure: unknown = await installSchema(admin, failing).catch((error: unknown) => error)
  expect(failure).toBeInstanceOf(InstallationFailure)
  expect(failure).toMatchObject({ file: '9999-failing.sql', statement: '-- Divides.\nselect 1 / 0' })
  expect(await catalogOf(admin)).toEqual(before)
  expect(await installSchema(admin)).toMatchObject({ kind: 'install' })
})

/** Installs a release that waits in its last migration for as long as the lock is held; resolves when it does. */
async function installHalf(release: Release, at: FreshDatabase): Promise<{ pid: number; done: Promise<unknown> }> {
  const installer = await connect(at)
  const done = installSchema(installer, release).catch((error: unknown) => error)
  await eventually(async () => {
    const { rows } = await admin.query(
      `select from pg_locks where locktype = 'advisory' and not granted and pid = $1`,
      [installer.serverProcessId],
    )
    return rows.length === 1
  })
  return { pid: installer.serverProcessId, done }
}

const waits = { name: '9999-waits.sql', text: `set local lock_timeout = 0; select pg_advisory_xact_lock(77)` }

test('U1: an upgrade whose connection ends in the middle leaves the release before, and the next one does it all', async () => {
  await foundBefore()
  const [database] = databases
  if (database === undefined) throw new Error('no database')
  const before = await catalogOf(admin)
  await admin.query('select pg_advisory_lock(77)')
  const { pid, done } = await installHalf(await releaseWith(waits), database)
  await admin.query('select pg_terminate_backend($1)', [pid])
  expect(await done).toBeInstanceOf(Error)
  expect(await catalogOf(admin)).toEqual(before)
  await admin.query('select pg_advisory_unlock(77)')
  expect(await installSchema(admin, await releaseWith(waits))).toMatchObject({ kind: 'install' })
  expect(await accounts()).toEqual(bothAccounts)
})

test('U4: while rules are made anew, nobody sees or writes a table without them', async () => {
  await foundBefore()
  const [database] = databases
  if (database === undefined) throw new Error('no database')
  const application = await connect(database, 'holdfast_app')
  expect((await application.query('select id from accounts')).rows).toEqual([])
  await admin.query('select pg_advisory_lock(77)')
  const { done } = await installHalf(await releaseWith(waits), database)
  await application.query(`set lock_timeout = '100ms'`)
  for (const statement of ['select id from accounts', `insert into accounts values ('globex-eu', 'c')`]) {
    await expect(application.query(statement)).rejects.toMatchObject({ sqlState: sqlState.lockNotAvailable })
  }
  await admin.query('select pg_advisory_unlock(77)')
  expect(await done).toMatchObject({ kind: 'install' })
  expect((await application.query('select id from accounts')).rows).toEqual([])
  await expect(application.query(`insert into accounts values ('globex-eu', 'c')`)).rejects.toMatchObject({
    sqlState: sqlState.notOpened,
  })
})

test('U4: a start without anything to do asks for no lock; one that has something gives up where a branch holds a table', async () => {
  await foundBefore()
  const [database] = databases
  if (database === undefined) throw new Error('no database')
  const branch = await connect(database)
  await branch.script(`begin; insert into accounts values ('globex-eu', 'c'); prepare transaction 'hf_upgrade'`)
  try {
    expect(await installSchema(admin, await release0006())).toEqual({ kind: 'none needed' })
    await expect(installSchema(admin)).rejects.toMatchObject({ refusal: { sqlState: sqlState.lockNotAvailable } })
  } finally {
    await branch.query(`rollback prepared 'hf_upgrade'`)
  }
  expect(await installSchema(admin)).toMatchObject({ kind: 'install' })
})

test('U3: a later release is told by its name and left alone', async () => {
  await installSchema(admin, await releaseWith({ name: '9999-later.sql', text: 'select 1' }, '99.0.0'))
  const later = await catalogOf(admin)
  expect(await installSchema(admin)).toEqual({ kind: 'newer', installed: '99.0.0 with schema 9999-later' })
  expect(await catalogOf(admin)).toEqual(later)
})
