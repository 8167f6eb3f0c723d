import type { ChildProcess } from 'node:child_process'
import { spawn } from 'node:child_process'
import { mkdir, open, rename, stat } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { assert } from '../../base/assert.ts'
import type { Clock } from '../../base/clock.ts'
import { systemClock } from '../../base/clock.ts'
import { HoldfastError } from '../../base/errors.ts'
import { fileFailure } from '../../base/file-failure.ts'
import type { PostgresBinaries } from './binaries.ts'
import type { Settings } from './data-directory.ts'
import {
  admissionFile,
  giveTo,
  machineSettings,
  serverEnvironment,
  serverFailure,
  tailOf,
  writeAdmission,
  writeSettings,
} from './data-directory.ts'
import { clearPredecessor } from './predecessor.ts'
import { childrenOf, readPidFile, signal, untilGone } from './processes.ts'
import { discardEarlyStates } from './two-phase-files.ts'
import type { ServerUser } from './server-user.ts'
import { identity } from './server-user.ts'

/**
 * One PostgreSQL server process on this machine, from start to stop.
 *
 * It runs as a child in a session of its own: Ctrl-C in our terminal reaches us and not the servers, which are
 * then stopped in order. A supervisor that is killed leaves them running; they go on serving, and the next start
 * on the directory finds the old server and stops it first.
 *
 *   L1  Two servers never run on one data directory. A `postmaster.pid` is removed by us only when no process of
 *       its directory is left; else PostgreSQL's own interlock decides.
 *   L2  Ready means that the server says so in `postmaster.pid`. Log texts and pauses decide nothing.
 *   L3  A stop escalates: fast, then immediate, then kill. After it no process of the server is left.
 *   L4  A recovery finds no state of a prepared transaction that its log has as well: such a branch would be lost (HZ-X8).
 */
export interface LocalServerOptions {
  readonly binaries: PostgresBinaries
  readonly user: ServerUser | undefined
  readonly dataDir: string
  readonly socketDir: string
  readonly port: number
  readonly logFile: string
  /** Added to what the machine dictates; in force from the next start, or `configure`. */
  readonly settings: Settings
  /** Roles that it lets in only once it is told to, with `admitAll`. */
  readonly lockedOut?: readonly string[]
  readonly clock?: Clock
}

export type StopMode = 'fast' | 'immediate'

/** 104 bytes on macOS and 108 on Linux, with a terminating zero and a `.lock` file beside it. */
const socketPathBytesMax = 100
const pollMs = 10
const startWithinMs = 60_000
const stopWithinMs = 30_000
const killWithinMs = 10_000
const logBytesMax = 16 * 1024 * 1024

export class LocalServer {
  readonly dataDir: string
  readonly socketDir: string
  readonly port: number
  readonly #options: LocalServerOptions
  readonly #clock: Clock
  #settings: Settings
  #child: ChildProcess | undefined
  #ended: Promise<void> = Promise.resolve()
  #logStart = 0
  #paused: readonly number[] = []

  constructor(options: LocalServerOptions) {
    const path = join(options.socketDir, `.s.PGSQL.${options.port}`)
    if (Buffer.byteLength(path) > socketPathBytesMax) {
      throw new HoldfastError(
        'argument_invalid',
        `the socket path is longer than ${socketPathBytesMax} bytes: ${path}`,
        {
          hint: 'Choose a shorter directory for sockets.',
        },
      )
    }
    this.dataDir = options.dataDir
    this.socketDir = options.socketDir
    this.port = options.port
    this.#options = options
    this.#settings = options.settings
    this.#clock = options.clock ?? systemClock
  }

  /** The process id of the postmaster while it runs. */
  get pid(): number | undefined {
    return this.isRunning() ? this.#child?.pid : undefined
  }

  isRunning(): boolean {
    return this.#child !== undefined && this.#child.exitCode === null && this.#child.signalCode === null
  }

  /**
   * Starts the server and waits until it accepts connections. A server that an earlier supervisor left running on
   * the directory is stopped first. Throws `server_failed`, `disk_full` or `directory_not_writable`.
   */
  async start(options: { readonly readyWithinMs?: number } = {}): Promise<void> {
    assert(!this.isRunning(), `the server of ${this.dataDir} is started once`)
    await clearPredecessor(this.dataDir, this.#clock)
    await this.#discardEarlyStates()
    await this.#prepareSocketDir()
    await this.#writeSettings()
    await writeAdmission(this.dataDir, this.#options.lockedOut ?? [], this.#options.user)
    await this.#spawn()
    try {
      await this.waitReady(options.readyWithinMs ?? startWithinMs)
    } catch (error) {
      await this.stop('immediate')
      throw error
    }
  }

  /** Waits until the server accepts connections: of a follower, until it shows a consistent state. */
  async waitReady(withinMs: number): Promise<void> {
    const deadline = this.#clock.monotonicMs() + withinMs
    for (;;) {
      if (!this.isRunning()) throw await this.#failure('the server ended while it started', true)
      const file = await readPidFile(this.dataDir)
      if (file?.pid === this.#child?.pid && file?.status === 'ready') return
      if (this.#clock.monotonicMs() > deadline) {
        throw await this.#failure(`the server does not accept connections within ${withinMs} ms`)
      }
      await this.#clock.sleep(pollMs)
    }
  }

  /** Stops the server; at the deadline a fast stop becomes an immediate one. Says which it was in the end. */
  async stop(mode: StopMode = 'fast', withinMs: number = stopWithinMs): Promise<StopMode | 'killed'> {
    if (!this.isRunning()) return mode
    await this.resume()
    const child = this.#child
    assert(child?.pid !== undefined, 'a running server has a process id')
    if (mode === 'fast') {
      signal(child.pid, 'SIGINT')
      if (await this.#endsWithin(withinMs)) return 'fast'
    }
    signal(child.pid, 'SIGQUIT')
    if (await this.#endsWithin(killWithinMs)) return 'immediate'
    await this.kill()
    return 'killed'
  }

  /** Crashes the server: SIGKILL for it and its processes, as when the machine loses power. */
  async kill(): Promise<void> {
    const pid = this.pid
    if (pid === undefined) return
    // Stopped first, so that it starts no process while we look for them.
    signal(pid, 'SIGSTOP')
    const children = await childrenOf(pid)
    for (const one of [pid, ...children]) signal(one, 'SIGKILL')
    this.#paused = []
    await this.#ended
    await untilGone(children, killWithinMs, this.#clock)
  }

  /** Freezes the server: it keeps its connections and locks, and answers nothing until `resume`. */
  async pause(): Promise<void> {
    const pid = this.pid
    if (pid === undefined) throw await this.#failure('the server does not run')
    signal(pid, 'SIGSTOP')
    const children = await childrenOf(pid)
    for (const child of children) signal(child, 'SIGSTOP')
    this.#paused = [...children, pid]
  }

  async resume(): Promise<void> {
    for (const pid of this.#paused) signal(pid, 'SIGCONT')
    this.#paused = []
  }

  /** Replaces the settings; those that need no restart are in force soon after. */
  async configure(settings: Settings): Promise<void> {
    this.#settings = settings
    await this.#writeSettings()
    this.reload()
  }

  /** Lets every role in. In force soon after. */
  async admitAll(): Promise<void> {
    await writeAdmission(this.dataDir, [], this.#options.user)
    this.reload()
  }

  /** Reads the settings files again. */
  reload(): void {
    const pid = this.pid
    if (pid !== undefined) signal(pid, 'SIGHUP')
  }

  /** Resolves when the process has ended, for whatever reason. */
  ended(): Promise<void> {
    return this.#ended
  }

  /** The last lines that the server logged since its start. */
  logTail(): Promise<string> {
    return tailOf(this.#options.logFile, this.#logStart)
  }

  async #writeSettings(): Promise<void> {
    const { binaries, user } = this.#options
    const fixed: Settings = {
      listen_addresses: '',
      port: this.port,
      unix_socket_directories: this.socketDir,
      unix_socket_permissions: '0700',
      logging_collector: false,
      log_destination: 'stderr',
    }
    // A restored server has one of its own, and lets nobody in.
    const admission: Settings = { hba_file: join(this.dataDir, admissionFile) }
    const machine = await machineSettings(binaries)
    await writeSettings(this.dataDir, { ...machine, ...admission, ...this.#settings, ...fixed }, user)
  }

  async #discardEarlyStates(): Promise<void> {
    const discarded = await discardEarlyStates(this.dataDir)
    if (discarded.length === 0) return
    const log = await openLog(this.#options.logFile)
    try {
      await log.write(`removed before the recovery, whose log has them: pg_twophase/${discarded.join(', ')}\n`)
    } finally {
      await log.close()
    }
  }

  async #prepareSocketDir(): Promise<void> {
    try {
      await mkdir(this.socketDir, { recursive: true, mode: 0o700 })
      await giveTo(this.#options.user, this.socketDir)
    } catch (error) {
      throw fileFailure(error, this.socketDir)
    }
  }

  async #spawn(): Promise<void> {
    const { binaries, user, logFile } = this.#options
    const log = await openLog(logFile)
    try {
      this.#logStart = (await log.stat()).size
      const child = spawn(join(binaries.binDir, 'postgres'), ['-D', this.dataDir], {
        ...identity(user),
        cwd: '/',
        env: serverEnvironment,
        detached: true,
        stdio: ['ignore', log.fd, log.fd],
      })
      this.#child = child
      let spawnError: Error | undefined
      this.#ended = new Promise((resolve) => {
        child.once('exit', () => resolve())
        child.once('error', (error) => {
          spawnError = error
          resolve()
        })
      })
      if (child.pid === undefined) {
        await this.#ended
        this.#child = undefined
        throw serverFailure(`cannot run ${join(binaries.binDir, 'postgres')}`, '', this.dataDir, { cause: spawnError })
      }
    } finally {
      await log.close()
    }
  }

  async #endsWithin(ms: number): Promise<boolean> {
    const waiting = new AbortController()
    const timer = this.#clock.sleep(ms, waiting.signal).then(
      () => false,
      () => true,
    )
    const ended = await Promise.race([this.#ended.then(() => true), timer])
    waiting.abort()
    return ended
  }

  async #failure(what: string, ended = false): Promise<HoldfastError> {
    return serverFailure(`${what} (${this.dataDir})`, await this.logTail(), this.dataDir, { ended })
  }
}

async function openLog(path: string): ReturnType<typeof open> {
  try {
    await mkdir(dirname(path), { recursive: true })
    const size = await stat(path).then(
      (found) => found.size,
      () => 0,
    )
    if (size > logBytesMax) await rename(path, `${path}.1`)
    return await open(path, 'a', 0o600)
  } catch (error) {
    throw fileFailure(error, path)
  }
}
