import { fileURLToPath } from 'node:url'
import type { Release, SqlFile } from '../../src/postgres/release.ts'
import { packageRelease, readSqlFiles } from '../../src/postgres/release.ts'

/** Releases of other times, for tests of upgrades. */

/** One that fleets were founded with: migrations up to 0006, and the functions that went with them. */
export async function release0006(): Promise<Release> {
  const { migrations } = await packageRelease()
  const functions = await readSqlFiles(fileURLToPath(new URL('release-0006/', import.meta.url)))
  return { version: '0.0.9', migrations: migrations.slice(0, 6), functions }
}

/** The one of this code with a migration more. */
export async function releaseWith(migration: SqlFile, version?: string): Promise<Release> {
  const release = await packageRelease()
  return {
    ...release,
    version: version ?? release.version,
    migrations: [...release.migrations, migration],
  }
}
