import { execFile } from 'node:child_process'
import { readdir, readFile, readlink, realpath } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import type { Clock } from '../../base/clock.ts'

/** What the operating system says about server processes. */

const run = promisify(execFile)

const pollMs = 10

/** The contents of `postmaster.pid` (PostgreSQL, `src/include/utils/pidfile.h`). */
export interface PidFile {
  readonly pid: number
  /** `ready`: accepts connections, a hot standby included. `standby`: in recovery and does not. */
  readonly status: 'starting' | 'stopping' | 'ready' | 'standby' | 'unknown'
}

export async function readPidFile(dataDir: string): Promise<PidFile | undefined> {
  let text: string
  try {
    text = await readFile(join(dataDir, 'postmaster.pid'), 'utf8')
  } catch {
    return undefined
  }
  return parsePidFile(text)
}

export function parsePidFile(text: string): PidFile | undefined {
  const lines = text.split('\n')
  const pid = Math.abs(Number.parseInt(lines[0] ?? '', 10))
  if (!Number.isInteger(pid) || pid === 0) return undefined
  const status = (lines[7] ?? '').trim()
  switch (status) {
    case 'starting':
    case 'stopping':
    case 'ready':
    case 'standby':
      return { pid, status }
    default:
      return { pid, status: 'unknown' }
  }
}

/** Signals a process; false when there is none. */
export function signal(pid: number, name: NodeJS.Signals | 0): boolean {
  try {
    process.kill(pid, name)
    return true
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ESRCH') return false
    // Not ours to signal, but it is there.
    if (error instanceof Error && 'code' in error && error.code === 'EPERM' && name === 0) return true
    throw error
  }
}

/**
 * Whether a process runs. One that has ended and that nobody asks about stays in the table: in a container whose
 * first process is not an init, orphans stay there for good.
 */
export async function lives(pid: number): Promise<boolean> {
  if (!signal(pid, 0)) return false
  if (process.platform === 'linux') return (await statOf(pid)) !== undefined
  return (await listFromPs()).some((entry) => entry.pid === pid)
}

interface ProcessEntry {
  readonly pid: number
  readonly parent: number
}

/** The living children of a process. A zombie has ended and is not listed. */
export async function childrenOf(pid: number): Promise<number[]> {
  const all = process.platform === 'linux' ? await listFromProc() : await listFromPs()
  return all.filter((entry) => entry.parent === pid).map((entry) => entry.pid)
}

async function listFromProc(): Promise<ProcessEntry[]> {
  const entries: ProcessEntry[] = []
  for (const name of await readdir('/proc')) {
    if (!/^\d+$/.test(name)) continue
    const entry = await statOf(Number(name))
    if (entry !== undefined) entries.push(entry)
  }
  return entries
}

async function statOf(pid: number): Promise<ProcessEntry | undefined> {
  try {
    // The command name stands in parentheses and may itself contain some; state and parent follow the last one.
    const text = await readFile(`/proc/${pid}/stat`, 'utf8')
    const [state, parent] = text.slice(text.lastIndexOf(')') + 2).split(' ')
    return state === 'Z' || state === 'X' ? undefined : { pid, parent: Number(parent) }
  } catch {
    // It ended while we looked.
    return undefined
  }
}

async function listFromPs(): Promise<ProcessEntry[]> {
  const { stdout } = await run('ps', ['-A', '-o', 'pid=,ppid=,stat='])
  return stdout.split('\n').flatMap((line) => {
    const [pid, parent, state] = line.trim().split(/\s+/)
    return pid && parent && !state?.startsWith('Z') ? [{ pid: Number(pid), parent: Number(parent) }] : []
  })
}

/**
 * Whether the living process `pid` is a server of this data directory. A process id in a file that a crash left
 * behind may belong to anything by now, most of all in a container, where ids are small.
 */
export async function servesDirectory(pid: number, dataDir: string): Promise<'yes' | 'no' | 'unknown'> {
  const directory = await realpath(dataDir)
  if (process.platform === 'linux') {
    try {
      return (await readlink(`/proc/${pid}/cwd`)) === directory ? 'yes' : 'no'
    } catch {
      return signal(pid, 0) ? 'unknown' : 'no'
    }
  }
  try {
    const { stdout } = await run('ps', ['-p', String(pid), '-o', 'command='])
    if (!stdout.includes('postgres')) return 'no'
    return stdout.includes(dataDir) || stdout.includes(directory) ? 'yes' : 'unknown'
  } catch {
    return 'no'
  }
}

/**
 * The server processes that still work in the data directory, e.g. backends whose postmaster was killed. Empty on
 * other systems than Linux, which do not tell where a process works.
 */
export async function processesIn(dataDir: string): Promise<number[]> {
  if (process.platform !== 'linux') return []
  const directory = await realpath(dataDir)
  const found: number[] = []
  for (const name of await readdir('/proc')) {
    if (!/^\d+$/.test(name)) continue
    const [cwd, program] = await Promise.all(
      ['cwd', 'exe'].map((link) => readlink(`/proc/${name}/${link}`).catch(() => '')),
    )
    // A program that was replaced since it was started is shown as deleted.
    if (cwd === directory && /\/postgres( \(deleted\))?$/.test(program ?? '')) found.push(Number(name))
  }
  return found
}

/** Waits until processes, children of ours or not, have ended; false at the deadline. */
export async function untilGone(pids: readonly number[], withinMs: number, clock: Clock): Promise<boolean> {
  const deadline = clock.monotonicMs() + withinMs
  for (;;) {
    const living = await Promise.all(pids.map(lives))
    if (!living.includes(true)) return true
    if (clock.monotonicMs() > deadline) return false
    await clock.sleep(pollMs)
  }
}
