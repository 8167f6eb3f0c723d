import { execFile } from 'node:child_process'
import { chmod, chown, mkdir, open, readFile, rename, rm, statfs, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { promisify } from 'node:util'
import { storeDurably } from '../../base/durable-files.ts'
import { HoldfastError } from '../../base/errors.ts'
import { fileFailure } from '../../base/file-failure.ts'
import type { PostgresBinaries } from './binaries.ts'
import type { ServerUser } from './server-user.ts'
import { canEnter, identity } from './server-user.ts'

/** Data directories: made by `initdb`, owned by the server's user alone, configured through files of ours. */

const run = promisify(execFile)

export type Settings = Readonly<Record<string, string | number | boolean>>

/** Our settings, included from `postgresql.conf`; the supervisor writes the whole file before each start. */
export const settingsFile = 'holdfast.conf'
/** Where a follower streams from. A file of its own, because a base backup must never bring it along. */
export const upstreamFile = 'holdfast.upstream.conf'
/** Whom the server lets in, instead of `pg_hba.conf`. Ours, because a base backup brings along that of its origin. */
export const admissionFile = 'holdfast.hba.conf'

/**
 * 4 MB where PostgreSQL has 16: the archive receives whole segments, and a shard that writes little would carry
 * mostly zeros in each. It also is the least that every node preallocates.
 */
const walSegmentMb = 4

/** Below this, parallel queries of a few servers fail for lack of shared memory (containers give 64 MB). */
const sharedMemoryBytesMin = 256 * 1024 * 1024

/** Servers and their programs see no environment of ours: a `PGPORT` or a locale must not decide anything. */
export const serverEnvironment = { LC_ALL: 'C', TZ: 'UTC' } as const

export interface InitialiseOptions {
  readonly binaries: PostgresBinaries
  readonly user: ServerUser | undefined
  readonly dataDir: string
  readonly superuser: string
  readonly password: string
}

/**
 * Runs `initdb`, which flushes what it wrote: no later checkpoint would. The directory must not exist or be empty.
 * Throws `directory_not_writable`, `disk_full` or `server_failed`; what `initdb` began it removes itself.
 */
export async function initialiseDataDir(options: InitialiseOptions): Promise<void> {
  const { binaries, user, dataDir, superuser, password } = options
  await makeDataDir(dataDir, user)
  // Beside the data directory, because the server's user can enter that place for certain. A command line would
  // show it to every user of the machine.
  const passwordFile = `${dataDir}.password`
  try {
    await rm(passwordFile, { force: true })
    await writeFile(passwordFile, `${password}\n`, { mode: 0o600, flag: 'wx' })
    await giveTo(user, passwordFile)
    const args = ['-D', dataDir, '-U', superuser, `--pwfile=${passwordFile}`, '--auth=scram-sha-256']
    args.push('--data-checksums', '--encoding=UTF8', `--wal-segsize=${walSegmentMb}`, ...localeOptions(binaries))
    await run(join(binaries.binDir, 'initdb'), args, { ...identity(user), cwd: '/', env: serverEnvironment })
  } catch (error) {
    throw initFailure(error, dataDir)
  } finally {
    await rm(passwordFile, { force: true })
  }
  await includeOurFiles(dataDir, user)
}

/** Sorting must not depend on the machine: collation of one node's indexes is used by all others. */
function localeOptions(binaries: PostgresBinaries): string[] {
  if (binaries.major >= 17) return ['--locale-provider=builtin', '--builtin-locale=C.UTF-8', '--locale=C']
  return [process.platform === 'linux' ? '--locale=C.UTF-8' : '--locale=C']
}

/** Makes an empty data directory with the mode and owner that PostgreSQL demands. */
export async function makeDataDir(dataDir: string, user: ServerUser | undefined): Promise<void> {
  try {
    await mkdir(dataDir, { recursive: true, mode: 0o700 })
    await chmod(dataDir, 0o700)
    await giveTo(user, dataDir)
  } catch (error) {
    throw fileFailure(error, dataDir)
  }
  if (await canEnter(dirname(dataDir), user)) return
  throw new HoldfastError(
    'directory_not_writable',
    `the account ${user?.name ?? 'of this process'}, which servers run as, cannot enter ${dirname(dataDir)}`,
    { hint: 'Choose a data directory outside of folders that only root can enter, e.g. below /var/lib.' },
  )
}

export async function giveTo(user: ServerUser | undefined, ...paths: string[]): Promise<void> {
  if (user === undefined) return
  for (const path of paths) await chown(path, user.uid, user.gid)
}

async function includeOurFiles(dataDir: string, user: ServerUser | undefined): Promise<void> {
  const path = join(dataDir, 'postgresql.conf')
  const lines = [settingsFile, upstreamFile].map((file) => `include_if_exists = '${file}'\n`)
  await storeDurably(path, Buffer.from(`${await readFile(path, 'utf8')}\n${lines.join('')}`))
  await giveTo(user, path)
}

/** Replaces a settings file as a whole. In effect after a start or a reload. Mode 0600: it may hold a password. */
export async function writeSettings(
  dataDir: string,
  settings: Settings,
  user: ServerUser | undefined,
  file: string = settingsFile,
): Promise<void> {
  await replaceFile(join(dataDir, file), formatSettings(settings), user)
}

async function replaceFile(path: string, text: string, user: ServerUser | undefined): Promise<void> {
  const next = `${path}.next`
  try {
    await writeFile(next, text, { mode: 0o600 })
    await giveTo(user, next)
    await rename(next, path)
  } catch (error) {
    throw fileFailure(error, path)
  }
}

/** Lets every role in but these. In effect after a start or a reload, for sessions that begin then. */
export async function writeAdmission(
  dataDir: string,
  lockedOut: readonly string[],
  user: ServerUser | undefined,
): Promise<void> {
  const rejected = lockedOut.map((role) => `local all ${role} reject`)
  const lines = [...rejected, 'local all all scram-sha-256', 'local replication all scram-sha-256']
  await replaceFile(join(dataDir, admissionFile), `${lines.join('\n')}\n`, user)
}

export function formatSettings(settings: Settings): string {
  return Object.entries(settings)
    .map(([name, value]) => `${name} = ${formatSetting(value)}\n`)
    .join('')
}

function formatSetting(value: string | number | boolean): string {
  if (typeof value === 'boolean') return value ? 'on' : 'off'
  if (typeof value === 'number') return String(value)
  if (value.includes('\n')) throw new HoldfastError('argument_invalid', 'a setting cannot contain a line break')
  return `'${value.replaceAll('\\', '\\\\').replaceAll("'", "''")}'`
}

/** Settings that follow from the machine and the version, not from what the node is for. */
export async function machineSettings(binaries: PostgresBinaries): Promise<Settings> {
  return {
    shared_buffers: '64MB',
    huge_pages: 'off',
    timezone: 'UTC',
    log_timezone: 'UTC',
    lc_messages: 'C',
    ...((await hasSmallSharedMemory()) ? { dynamic_shared_memory_type: 'mmap' } : {}),
    // Three worker processes a server, which embedded servers have no use for.
    ...(binaries.major >= 18 ? { io_method: 'sync' } : {}),
  }
}

async function hasSmallSharedMemory(): Promise<boolean> {
  if (process.platform !== 'linux') return false
  try {
    const { bsize, blocks } = await statfs('/dev/shm')
    return bsize * blocks < sharedMemoryBytesMin
  } catch {
    return true
  }
}

/**
 * Takes from a copied data directory what belonged to the node it was copied from: settings, upstream with its
 * password, what was set with ALTER SYSTEM, and the signals to be a follower or to recover.
 */
export async function forgetOrigin(dataDir: string, user: ServerUser | undefined): Promise<void> {
  for (const file of [settingsFile, upstreamFile, 'standby.signal', 'recovery.signal']) {
    await rm(join(dataDir, file), { force: true })
  }
  await writeSettings(dataDir, {}, user, 'postgresql.auto.conf')
}

const logTailBytes = 4096

/** The last lines of a log, from byte `from` on at the earliest. */
export async function tailOf(path: string, from = 0): Promise<string> {
  let file: Awaited<ReturnType<typeof open>>
  try {
    file = await open(path, 'r')
  } catch {
    return ''
  }
  try {
    const { size } = await file.stat()
    const start = Math.max(from, size - logTailBytes)
    const { buffer, bytesRead } = await file.read(Buffer.alloc(Math.max(0, size - start)), 0, undefined, start)
    return buffer.subarray(0, bytesRead).toString('utf8').split('\n').slice(-15).join('\n').trim()
  } finally {
    await file.close()
  }
}

/** A server program's last words as an error: a full disk has a code of its own. `ended`: by itself, whoever waits longer. */
export function serverFailure(
  what: string,
  log: string,
  dataDir: string,
  { cause, ended = false }: { readonly cause?: unknown; readonly ended?: boolean } = {},
): HoldfastError {
  if (/No space left on device|ENOSPC/.test(log)) {
    return new HoldfastError('disk_full', `${what}: the file system of ${dataDir} is full`, { cause })
  }
  const message = log === '' ? what : `${what}; the end of its log:\n${log}`
  return new HoldfastError('server_failed', message, { detail: ended ? { ended } : {}, cause })
}

function initFailure(error: unknown, dataDir: string): HoldfastError {
  const failure = fileFailure(error, dataDir)
  if (failure instanceof HoldfastError) return failure
  const output = typeof error === 'object' && error !== null && 'stderr' in error ? String(error.stderr) : String(error)
  return serverFailure(`initdb failed for ${dataDir}`, output.trim(), dataDir, { cause: error })
}
