import { link, readFile, rename, rm, writeFile } from 'node:fs/promises'
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
      return { previousHolderCrashed, release: () => rm(path, { force: true }) }
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
    previousHolderCrashed = true
    // Renaming takes the stale file out of the way once, whoever else tries the same.
    const aside = `${path}.${newRandomUuid()}`
    await rename(path, aside).catch(() => undefined)
    await rm(aside, { force: true })
  }
  throw new HoldfastError('fleet_locked', `the lock ${path} is contended`, { hint: 'try again' })
}

/** Who holds the lock now, if anybody alive does. */
export async function lockHolder(path: string): Promise<LockHolder | undefined> {
  const holder = await readHolder(path)
  return holder !== undefined && (await isAlive(holder)) ? holder : undefined
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
