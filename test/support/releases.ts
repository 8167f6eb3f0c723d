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

/** The same, for the code of today to found a fleet with: it may say less of a new shard than the functions of then asked. */
export async function release0006ToFound(): Promise<Release> {
  const release = await release0006()
  const founding = `
    create or replace procedure holdfast.found_shard(
      p_fleet text, p_shard text, p_durability text, p_history uuid, p_max_clock_offset_ms integer)
    language plpgsql
    as $$
    begin
      call holdfast.found_shard(p_fleet, p_shard, p_durability, p_history, p_max_clock_offset_ms,
        decode(repeat('ab', 32), 'hex'));
    end
    $$`
  return { ...release, functions: [...release.functions, { name: '99-founding.sql', text: founding }] }
}

/** The one of this code with a migration more, or several. */
export async function releaseWith(more: SqlFile | readonly SqlFile[], version?: string): Promise<Release> {
  const release = await packageRelease()
  return {
    ...release,
    version: version ?? release.version,
    migrations: [...release.migrations, ...[more].flat()],
  }
}
