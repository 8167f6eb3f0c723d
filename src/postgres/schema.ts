import { createHash } from 'node:crypto'
import { readdir, readFile } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'
import { assert } from '../base/assert.ts'
import { HoldfastError } from '../base/errors.ts'
import type { Connection } from './connection.ts'

/**
 * The `holdfast` schema of a server, from the `.sql` files of the package.
 *
 * Migrations run once each, in the order of their names, and may never change afterwards: their checksums are kept.
 * Functions are replaced at every installation; they hold no state.
 */
const sqlRoot = new URL('../../sql/', import.meta.url)

export interface SqlFile {
  readonly name: string
  readonly text: string
}

/** The `.sql` files of a folder, in the order of their names. */
export async function readSqlFiles(folder: string | URL): Promise<SqlFile[]> {
  const path = typeof folder === 'string' ? folder : fileURLToPath(folder)
  const names = (await readdir(path)).filter((name) => name.endsWith('.sql')).sort()
  return Promise.all(names.map(async (name) => ({ name, text: await readFile(`${path}/${name}`, 'utf8') })))
}

/** Brings the schema of the server to this package's. Run as an administrator, again at will. */
export async function installSchema(admin: Connection): Promise<void> {
  await applyMigrations(admin, 'holdfast', await readSqlFiles(new URL('migrations/', sqlRoot)))
  for (const file of await readSqlFiles(new URL('functions/', sqlRoot))) {
    await admin.script(
      `begin; set local role holdfast_owner; set local check_function_bodies = off;\n${file.text}\n;commit`,
    )
  }
}

/**
 * Applies the migrations of one owner (`holdfast`, or a domain of the application) that have not run yet.
 * Throws `config_invalid` when one that ran has changed since.
 */
export async function applyMigrations(admin: Connection, owner: string, files: readonly SqlFile[]): Promise<void> {
  await admin.script(`
    create table if not exists public.holdfast_migration (
      owner text not null, name text not null, checksum text not null, applied_at timestamptz not null default now(),
      primary key (owner, name))`)
  const { rows } = await admin.query<{ name: string; checksum: string }>(
    'select name, checksum from public.holdfast_migration where owner = $1',
    [owner],
  )
  const applied = new Map(rows.map((row) => [row.name, row.checksum]))
  for (const file of files) {
    const checksum = createHash('sha256').update(file.text).digest('hex')
    const known = applied.get(file.name)
    if (known === checksum) continue
    if (known !== undefined) {
      throw new HoldfastError('config_invalid', `migration ${file.name} of ${owner} changed after it was applied`, {
        hint: 'write a new migration instead',
      })
    }
    await admin.script(`begin;\n${file.text}`)
    await admin.query('insert into public.holdfast_migration (owner, name, checksum) values ($1, $2, $3)', [
      owner,
      file.name,
      checksum,
    ])
    const { tag } = await admin.query('commit')
    assert(tag === 'COMMIT', `migration ${file.name} did not commit`)
  }
}
