import { assert } from '../base/assert.ts'
import { HoldfastError } from '../base/errors.ts'
import type { Connection } from './connection.ts'
import { ServerError } from './failure.ts'
import type { Installation, Installed, Release, SqlFile } from './release.ts'
import { checksumOf, packageRelease, planInstallation, releaseChecksum } from './release.ts'
import { statementsOf } from './sql-statements.ts'

/** The `holdfast` schema of a server, and the tables of the application: see docs/protocols/upgrade.md, U1 and U4. */

/** A statement of a release that a server refused. Nothing of the release is there. */
export class InstallationFailure extends Error {
  readonly file: string
  readonly statement: string
  readonly refusal: ServerError

  constructor(file: string, statement: string, refusal: ServerError) {
    super(`${file}: ${refusal.message}`, { cause: refusal })
    this.name = 'InstallationFailure'
    this.file = file
    this.statement = statement
    this.refusal = refusal
  }
}

/** What does not get its lock in this time waits for a branch in doubt, which nobody settles now. */
const lockWithinMs = 5_000
/** Followers that acknowledge nothing for as long are not going to. */
const commitWithinMs = 60_000

export interface BegunInstallation {
  readonly installation: Installation
  /** Throws when it did not reach the followers; whether it stands is then not known, and another installation tells. */
  readonly commit: () => Promise<void>
}

/** Brings the schema of a server to a release and tells what there was to do: `beginInstallation`, committed. */
export async function installSchema(admin: Connection, release?: Release): Promise<Installation> {
  const { installation, commit } = await beginInstallation(admin, release ?? (await packageRelease()))
  await commit()
  return installation
}

/**
 * Does all of an installation but its commit, in one transaction. Run as an administrator on a primary, again at will; only
 * `install` changes anything. Throws `InstallationFailure`; the release of the connection is what gives it up.
 *
 * The rules of governed tables go first and come last: a migration may drop what they are made of, and nobody sees a table
 * without them, since its lock is held throughout.
 */
export async function beginInstallation(admin: Connection, release: Release): Promise<BegunInstallation> {
  const installation = planInstallation(await readInstalled(admin), release)
  if (installation.kind !== 'install') return { installation, commit: () => Promise.resolve() }
  await admin.query('begin')
  try {
    await admin.script(
      `set local lock_timeout = '${lockWithinMs}ms'; set local idle_in_transaction_session_timeout = 0`,
    )
    await install(admin, release, installation.pending)
  } catch (error) {
    await admin.query('rollback').catch(() => undefined)
    throw error
  }
  const commit = async () => {
    const { tag, warnings } = await admin.query('commit', [], commitWithinMs)
    assert(tag === 'COMMIT' && warnings.length === 0, `the release was not committed everywhere: ${tag}`)
  }
  return { installation, commit }
}

async function install(admin: Connection, release: Release, pending: readonly SqlFile[]): Promise<void> {
  await run(admin, { name: 'the records of releases', text: makeRecords })
  await run(admin, { name: 'the rules of governed tables', text: ungovern })
  for (const file of pending) {
    await run(admin, file)
    await recordMigration(admin, migrationOwner, file)
  }
  await run(admin, { name: 'the grants on functions', text: ungrant })
  for (const file of release.functions) {
    await admin.script('set local role holdfast_owner; set local check_function_bodies = off')
    await run(admin, file)
    await admin.script('reset role; reset check_function_bodies')
  }
  await run(admin, { name: 'the rules of governed tables', text: governAgain })
  await run(admin, { name: 'the fence', text: fence })
  await admin.query('insert into public.holdfast_release (version, checksum) values ($1, $2)', [
    release.version,
    releaseChecksum(release),
  ])
}

/** Whose migrations those of a release are. */
export const migrationOwner = 'holdfast'

export async function isMigrated(admin: Connection, owner: string, name: string): Promise<boolean> {
  const { rowCount } = await admin.query('select from public.holdfast_migration where owner = $1 and name = $2', [
    owner,
    name,
  ])
  return rowCount > 0
}

/**
 * Runs one migration on a restored server as it ran before, in the transaction that is open, whose settings may be those of a
 * redo. One of a release leaves governed tables without their rules: an installation has to follow. Throws `InstallationFailure`.
 */
export async function migrateAgain(admin: Connection, owner: string, file: SqlFile): Promise<void> {
  const redoing = `select current_setting('session_replication_role') as role, current_setting('search_path') as path`
  const { rows } = await admin.query<{ role: string; path: string }>(redoing)
  await admin.script(`set local session_replication_role = origin; set local search_path = "$user", public`)
  if (owner === migrationOwner) await run(admin, { name: 'the rules of governed tables', text: ungovern })
  await run(admin, file)
  await recordMigration(admin, owner, file)
  for (const { role, path } of rows) {
    await admin.query(`select set_config('session_replication_role', $1, true), set_config('search_path', $2, true)`, [
      role,
      path,
    ])
  }
}

async function run(admin: Connection, { name, text }: SqlFile): Promise<void> {
  const statements = statementsOf(text)
  const outcomes = await admin.flight(statements.map((statement) => ({ text: statement, script: true })))
  outcomes.forEach((outcome, index) => {
    if (!outcome.ok) throw new InstallationFailure(name, statements[index] ?? '', outcome.error)
  })
}

const makeRecords = `
  create table if not exists public.holdfast_migration (
    owner text not null, name text not null, checksum text not null, applied_at timestamptz not null default now(),
    primary key (owner, name));
  create table if not exists public.holdfast_release (
    ordinal integer generated always as identity primary key, version text not null, checksum text not null,
    installed_at timestamptz not null default now())`

/** Every policy and trigger of Holdfast's on application tables. Row security stays on: without a policy nobody has a row. */
const ungovern = `
  do $$
  declare
    v_rule record;
  begin
    if to_regclass('holdfast.governed') is null then
      return;
    end if;
    for v_rule in
      select format('drop policy %I on %s', p.polname, p.polrelid::regclass) as dropping
      from holdfast.governed g join pg_policy p on p.polrelid = to_regclass(g.relation) and p.polname like 'holdfast\\_%'
      union all
      select format('drop trigger %I on %s', t.tgname, t.tgrelid::regclass)
      from holdfast.governed g join pg_trigger t on t.tgrelid = to_regclass(g.relation) and t.tgname = 'holdfast_guard'
    loop
      execute v_rule.dropping;
    end loop;
  end
  $$`

/** A function that is replaced keeps what an earlier release granted on it; its file says all that is granted now. */
const ungrant = `
  do $$
  declare
    v_role name;
  begin
    for v_role in
      select r.rolname from pg_roles r
      where r.rolname like 'holdfast\\_%' and r.rolname <> 'holdfast_owner' and not r.rolsuper
    loop
      execute format('revoke all on all routines in schema holdfast from %I', v_role);
    end loop;
  end
  $$`

const governAgain = `
  do $$
  declare
    v_governed record;
  begin
    for v_governed in
      select to_regclass(g.relation) as relation, g.domain, g.data_class
      from holdfast.governed g where to_regclass(g.relation) is not null
      order by g.relation
    loop
      call holdfast.govern(v_governed.relation, v_governed.domain, v_governed.data_class);
    end loop;
  end
  $$`

/** A gateway of the release before knows an epoch that is over. What a cutover holds closed has its epochs planned. */
const fence = `update holdfast.shard set epoch = epoch + 1 where state = 'open'`

/** What a server has, also a follower. */
export async function readInstalled(admin: Connection): Promise<Installed> {
  const { rows: known } = await admin.query<{ migrations: boolean; releases: boolean }>(
    `select to_regclass('public.holdfast_migration') is not null as migrations,
       to_regclass('public.holdfast_release') is not null as releases`,
  )
  const migrations = new Map<string, string>()
  if (known[0]?.migrations === true) {
    for (const [name, checksum] of await readMigrations(admin, migrationOwner)) migrations.set(name, checksum)
  }
  if (known[0]?.releases !== true) return { migrations, release: null }
  const { rows } = await admin.query<{ version: string; checksum: string }>(
    'select version, checksum from public.holdfast_release order by ordinal desc limit 1',
  )
  return { migrations, release: rows[0] ?? null }
}

interface SqlRecord {
  readonly name: string
  readonly checksum: string
}

/** What ran of an owner's migrations, name to checksum. */
export async function readMigrations(admin: Connection, owner: string): Promise<Map<string, string>> {
  const { rows } = await admin.query<SqlRecord>(
    'select name, checksum from public.holdfast_migration where owner = $1',
    [owner],
  )
  return new Map(rows.map((row) => [row.name, row.checksum]))
}

async function recordMigration(admin: Connection, owner: string, file: SqlFile): Promise<void> {
  await admin.query('insert into public.holdfast_migration (owner, name, checksum) values ($1, $2, $3)', [
    owner,
    file.name,
    checksumOf([file]),
  ])
}

/**
 * Applies the migrations of a domain of the application that have not run yet, each in a transaction of its own. `withinMs` is for
 * the statements of each, and for its commit: both take as long as there is data. Throws `config_invalid` when one that ran has changed
 * since.
 */
export async function applyMigrations(
  admin: Connection,
  owner: string,
  files: readonly SqlFile[],
  withinMs?: number,
): Promise<void> {
  const applied = await readMigrations(admin, owner)
  for (const file of files) {
    const known = applied.get(file.name)
    if (known === checksumOf([file])) continue
    if (known !== undefined) {
      throw new HoldfastError('config_invalid', `migration ${file.name} of ${owner} changed after it was applied`, {
        hint: 'write a new migration instead',
      })
    }
    await admin.script(`begin;\n${file.text}`, withinMs)
    await recordMigration(admin, owner, file)
    const { tag } = await admin.query('commit', [], withinMs)
    assert(tag === 'COMMIT', `migration ${file.name} did not commit`)
  }
}
