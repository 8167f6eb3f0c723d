import { createHash } from 'node:crypto'
import { readdir, readFile } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'

/**
 * What a release of Holdfast has in a database, and what becomes of a database that has another. See
 * docs/protocols/upgrade.md.
 *
 * Migrations run once each, in the order of their names, and may never change afterwards: their checksums are kept.
 * Functions hold no state and are replaced as a whole.
 */
export interface Release {
  /** Of the package, e.g. `0.1.0`. */
  readonly version: string
  readonly migrations: readonly SqlFile[]
  readonly functions: readonly SqlFile[]
}

export interface SqlFile {
  readonly name: string
  readonly text: string
}

/** What a server has. */
export interface Installed {
  /** The migrations that ran, with their checksums. */
  readonly migrations: ReadonlyMap<string, string>
  /** Null where a release put it there that did not say so yet. */
  readonly release: { readonly version: string; readonly checksum: string } | null
}

export type Installation =
  | { readonly kind: 'none needed' }
  | { readonly kind: 'install'; readonly pending: readonly SqlFile[] }
  /** A later release was here. What it has is not known, so nothing may be done. */
  | { readonly kind: 'newer'; readonly installed: string }
  /** No release has both. */
  | { readonly kind: 'changed'; readonly migration: string }

/** What is to be done on a server that has this, by a release. */
export function planInstallation(installed: Installed, release: Release): Installation {
  const names = new Set(release.migrations.map(({ name }) => name))
  const isUnknown = [...installed.migrations.keys()].some((name) => !names.has(name))
  const isLater = installed.release !== null && compareVersions(installed.release.version, release.version) > 0
  if (isUnknown || isLater) return { kind: 'newer', installed: nameInstalled(installed) }
  const changed = release.migrations.find((file) => {
    const checksum = installed.migrations.get(file.name)
    return checksum !== undefined && checksum !== checksumOf([file])
  })
  if (changed !== undefined) return { kind: 'changed', migration: changed.name }
  if (installed.release?.checksum === releaseChecksum(release)) return { kind: 'none needed' }
  return { kind: 'install', pending: release.migrations.filter(({ name }) => !installed.migrations.has(name)) }
}

/** For people, e.g. `0.1.0 with schema 0010-sessions`. */
export function nameRelease({ version, migrations }: Release): string {
  return named(version, migrations.at(-1)?.name)
}

export function nameInstalled({ release, migrations }: Installed): string {
  return named(release?.version ?? 'of an earlier form', [...migrations.keys()].toSorted().at(-1))
}

function named(version: string, lastMigration: string | undefined): string {
  return lastMigration === undefined ? version : `${version} with schema ${lastMigration.replace(/\.sql$/, '')}`
}

/** The same for two releases that leave the same in a database. */
export function releaseChecksum({ version, migrations, functions }: Release): string {
  return checksumOf([{ name: 'version', text: version }, ...migrations, ...functions])
}

/** Of one file it is that of its text: what was recorded before there were releases. */
export function checksumOf(files: readonly SqlFile[]): string {
  const sha256 = (text: string) => createHash('sha256').update(text).digest('hex')
  const [first, ...others] = files
  if (first !== undefined && others.length === 0) return sha256(first.text)
  return sha256(files.map(({ name, text }) => `${name} ${sha256(text)}\n`).join(''))
}

/** By the numbers of both, in order; what else is in them decides nothing. */
export function compareVersions(a: string, b: string): number {
  const [left, right] = [a, b].map((version) => (version.match(/\d+/g) ?? []).map(Number))
  for (let at = 0; at < Math.max(left?.length ?? 0, right?.length ?? 0); at++) {
    const difference = (left?.[at] ?? 0) - (right?.[at] ?? 0)
    if (difference !== 0) return Math.sign(difference)
  }
  return 0
}

const packageRoot = new URL('../../', import.meta.url)

/** The release of this code. */
export async function packageRelease(): Promise<Release> {
  const text = await readFile(new URL('package.json', packageRoot), 'utf8')
  const { version } = JSON.parse(text) as { readonly version: string }
  const [migrations, functions] = await Promise.all(
    ['migrations', 'functions'].map((folder) => readSqlFiles(new URL(`sql/${folder}/`, packageRoot))),
  )
  return { version, migrations: migrations ?? [], functions: functions ?? [] }
}

/** The `.sql` files of a folder, in the order of their names. */
export async function readSqlFiles(folder: string | URL): Promise<SqlFile[]> {
  const path = typeof folder === 'string' ? folder : fileURLToPath(folder)
  const names = (await readdir(path)).filter((name) => name.endsWith('.sql')).sort()
  return Promise.all(names.map(async (name) => ({ name, text: await readFile(`${path}/${name}`, 'utf8') })))
}
