import { link, readFile, rm, writeFile } from 'node:fs/promises'
import { formatWallMs, systemClock } from '../base/clock.ts'
import { HoldfastError } from '../base/errors.ts'
import { newRandomUuid } from '../base/random.ts'
import { fileFailure } from '../base/file-failure.ts'
import { signal } from '../postgres/server/processes.ts'

/**
 * The lock of a data directory: a file that names the process which holds it. A process that died leaves the file
 * behind; its id may since belong to another, so the file also has the process's start as the kernel tells it.
 */
export interface LockHolder {
  readonly pid: number
  readonly since: string
  /** Ticks since boot at which the process started, where the kernel says so; else empty. */
  readonly startTicks: string
}

export interface SupervisorLock {
  /** Whether an earlier holder ended without releasing: its servers may still run. */
  readonly previousHolderCrashed: boolean
  release(): Promise<void>
}

const attemptsMax = 20
const contendedMs = 50

/** Takes the lock, or throws `fleet_locked` with who holds it. */
export async function takeLock(path: string): Promise<SupervisorLock> {
  const mine: LockHolder = {
    pid: process.pid,
    since: formatWallMs(systemClock.wallMs()),
    startTicks: await startTicksOf(process.pid),
  }
  let previousHolderCrashed = false
  for (let attempt = 0; attempt < attemptsMax; attempt++) {
    if (await createExclusively(path, JSON.stringify(mine))) {
      return { previousHolderCrashed, release: releaseOnce(path) }
    }
    const holder = await readHolder(path)
    if (holder === undefined) continue
    if (await isAlive(holder)) {
      throw new HoldfastError(
        'fleet_locked',
        `the data directory is held by process ${holder.pid} since ${holder.since}`,
        {
          hint: 'attach to it with the other commands, or stop it first with: holdfast down',
          detail: { ...holder },
        },
      )
    }
    if (await removeStale(path, holder)) previousHolderCrashed = true
    else await systemClock.sleep(contendedMs)
  }
  throw new HoldfastError('fleet_locked', `the lock ${path} is contended`, { hint: 'try again' })
}

/** Who holds the lock now, if anybody alive does. */
export async function lockHolder(path: string): Promise<LockHolder | undefined> {
  const holder = await readHolder(path)
  return holder !== undefined && (await isAlive(holder)) ? holder : undefined
}

/** A second release would take the lock of whoever came next. */
function releaseOnce(path: string): () => Promise<void> {
  let released: Promise<void> | undefined
  return () => (released ??= rm(path, { force: true }))
}

/**
 * Removes the file of a holder that died; says whether it did. Of two that saw the same dead holder the slower one would
 * remove the lock that the faster one has taken since. So one at a time may remove, and looks again before it does.
 */
async function removeStale(path: string, seen: LockHolder): Promise<boolean> {
  const removing = `${path}.removing`
  if (!(await createExclusively(removing, JSON.stringify({ pid: process.pid, since: '', startTicks: '' })))) {
    // Left by one that was killed in here, within milliseconds.
    const remover = await readHolder(removing)
    if (remover !== undefined && !signal(remover.pid, 0)) await rm(removing, { force: true })
    return false
  }
  try {
    const now = await readHolder(path)
    if (now === undefined || now.pid !== seen.pid || now.startTicks !== seen.startTicks) return false
    await rm(path, { force: true })
    return true
  } finally {
    await rm(removing, { force: true })
  }
}

/** The file appears whole or not at all: a link to a written file, which fails when the name exists. */
async function createExclusively(path: string, text: string): Promise<boolean> {
  const draft = `${path}.${newRandomUuid()}`
  try {
    await writeFile(draft, text, { mode: 0o600, flush: true })
    await link(draft, path)
    return true
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'EEXIST') return false
    throw fileFailure(error, path)
  } finally {
    await rm(draft, { force: true })
  }
}

async function readHolder(path: string): Promise<LockHolder | undefined> {
  try {
    const value: unknown = JSON.parse(await readFile(path, 'utf8'))
    return isHolder(value) ? value : deadHolder
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return undefined
    if (error instanceof SyntaxError) return deadHolder
    throw fileFailure(error, path)
  }
}

const deadHolder: LockHolder = { pid: 0, since: '', startTicks: '' }

function isHolder(value: unknown): value is LockHolder {
  return typeof value === 'object' && value !== null && 'pid' in value && typeof value.pid === 'number'
}

async function isAlive(holder: LockHolder): Promise<boolean> {
  if (holder.pid <= 0 || !signal(holder.pid, 0)) return false
  return (await startTicksOf(holder.pid)) === holder.startTicks
}

async function startTicksOf(pid: number): Promise<string> {
  try {
    const stat = await readFile(`/proc/${pid}/stat`, 'utf8')
    // The name in parentheses may contain spaces; the start is the 20th field after it.
    return stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19] ?? ''
  } catch {
    return ''
  }
}
