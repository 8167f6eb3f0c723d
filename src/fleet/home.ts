import { createHash } from 'node:crypto'
import { chmod, lstat, mkdir, open, readFile, rename, rm, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { HoldfastError } from '../base/errors.ts'
import { fileFailure } from '../base/file-failure.ts'
import type { ServerUser } from '../postgres/server/server-user.ts'
import { canEnter } from '../postgres/server/server-user.ts'

/**
 * Where an embedded fleet keeps what it owns. Everything lies below the data directory, except the sockets, whose
 * paths are limited to about a hundred bytes, and except the servers' files when this process is root and the
 * servers' user cannot enter the data directory: then they lie below `/var/lib/holdfast`.
 */
export interface FleetHome {
  readonly dataDir: string
  readonly lockFile: string
  /** What others need to attach: control socket, gateways. Mode 0600. */
  readonly registryFile: string
  readonly topologyFile: string
  readonly keysDir: string
  readonly logsDir: string
  readonly drillsDir: string
  readonly journalDir: string
  readonly environmentsDir: string
  /** Below it lie the data directories of nodes and of restored environments. */
  readonly serversDir: string
  /** Short, because socket paths are. The same for the same data directory. */
  readonly runDir: string
}

export function fleetHome(dataDir: string, serversRoot: string = dataDir): FleetHome {
  const mark = createHash('sha256').update(dataDir).digest('hex').slice(0, 8)
  return {
    dataDir,
    lockFile: join(dataDir, 'supervisor.lock'),
    registryFile: join(dataDir, 'registry.json'),
    topologyFile: join(dataDir, 'topology.json'),
    keysDir: join(dataDir, 'keys'),
    logsDir: join(dataDir, 'logs'),
    drillsDir: join(dataDir, 'drills'),
    journalDir: join(dataDir, 'journal'),
    environmentsDir: join(dataDir, 'environments'),
    serversDir: serversRoot === dataDir ? join(dataDir, 'servers') : join(serversRoot, mark),
    // Not the system's own temporary folder: on macOS its path alone takes half of what a socket path may have.
    runDir: `/tmp/hf-${mark}`,
  }
}

/** Makes the folders of a home. Throws `directory_not_writable` or `disk_full`. */
export async function makeHome(dataDir: string, user: ServerUser | undefined): Promise<FleetHome> {
  try {
    await mkdir(dataDir, { recursive: true })
    const enterable = await canEnter(dataDir, user)
    const home = fleetHome(dataDir, enterable ? dataDir : '/var/lib/holdfast')
    for (const path of [home.keysDir, home.logsDir, home.drillsDir, home.journalDir, home.environmentsDir]) {
      await mkdir(path, { recursive: true, mode: 0o700 })
    }
    await makePassage(home.serversDir)
    await makePassage(home.runDir)
    return home
  } catch (error) {
    throw fileFailure(error, dataDir)
  }
}

/** Clears what a supervisor that was killed left in the run directory. Only by the holder of the lock. */
export async function clearRunDir(home: FleetHome): Promise<void> {
  await rm(home.runDir, { recursive: true, force: true })
  await makePassage(home.runDir)
}

/** A folder that the servers' user passes through; only names that it knows lead anywhere. */
async function makePassage(path: string): Promise<void> {
  await mkdir(path, { recursive: true })
  await requireOwn(path)
  await chmod(path, 0o711)
}

/** A folder below a shared one may have been put there by somebody else, to read what goes through its sockets. */
async function requireOwn(path: string): Promise<void> {
  const { uid } = await lstat(path)
  if (uid !== (process.getuid?.() ?? uid)) {
    throw new HoldfastError('directory_not_writable', `${path} belongs to another user`, {
      hint: 'remove it, or choose another data directory',
    })
  }
}

/** Replaces a file as a whole and makes that durable: a reader sees the old or the new one, also after a crash. */
export async function writeFileDurably(path: string, text: string, mode = 0o600): Promise<void> {
  const next = `${path}.next`
  try {
    await writeFile(next, text, { mode, flush: true })
    await rename(next, path)
    const folder = await open(dirname(path))
    try {
      await folder.sync()
    } finally {
      await folder.close()
    }
  } catch (error) {
    await rm(next, { force: true })
    throw fileFailure(error, path)
  }
}

/** The JSON document of a file, or undefined when there is no such file. */
export async function readJsonFile(path: string): Promise<unknown> {
  try {
    return JSON.parse(await readFile(path, 'utf8'))
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return undefined
    if (error instanceof SyntaxError) {
      throw new HoldfastError('internal', `${path} is not JSON`, { cause: error })
    }
    throw fileFailure(error, path)
  }
}
