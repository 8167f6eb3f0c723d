import { type ChildProcess, spawn } from 'node:child_process'
import type { Clock } from '../base/clock.ts'
import { HoldfastError } from '../base/errors.ts'
import type { RegionName } from '../directory/topology.ts'
import { type ControlError, fromControlError } from './control.ts'
import type { GatewayAddress } from './registry.ts'

/** The gateways that `up` runs, one process a region. One that dies is begun again: it holds nothing but open requests. */
export interface GatewayProcessesOptions {
  /** Path of the program, run by this Node. */
  readonly program: string
  readonly args: (region: RegionName) => readonly string[]
  readonly clock: Clock
  readonly onChange: (gateways: readonly GatewayAddress[]) => void
  /** Why one that had served does not begin again; it is tried until the fleet stops. */
  readonly onTrouble: (region: RegionName, error: unknown) => void
}

/** What a gateway says over its channel once it serves. */
export interface GatewayReady {
  readonly url: string
}

/** What it says when it cannot. */
export interface GatewayRefusal {
  readonly error: ControlError
}

const readyWithinMs = 20_000
const restartAfterMs = 500
const restartAfterMsMax = 8_000
const stopWithinMs = 5_000

export class GatewayProcesses {
  readonly #options: GatewayProcessesOptions
  readonly #children = new Map<RegionName, ChildProcess>()
  readonly #addresses = new Map<RegionName, string>()
  #stopping = false

  constructor(options: GatewayProcessesOptions) {
    this.#options = options
  }

  /** Of those that serve, in the order of the calls of `start`. */
  get addresses(): GatewayAddress[] {
    return [...this.#children.keys()].flatMap((region) => {
      const url = this.#addresses.get(region)
      return url === undefined ? [] : [{ region, url }]
    })
  }

  /** Starts the gateway of a region; resolves when it serves. Throws the error that it ended with; then it runs no more. */
  async start(region: RegionName): Promise<void> {
    const { program, args, onChange } = this.#options
    const child = spawn(process.execPath, [program, ...args(region)], {
      // Ctrl-C reaches this process alone, which then stops the gateways before the servers.
      detached: true,
      stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
    })
    this.#children.set(region, child)
    try {
      this.#addresses.set(region, await this.#ready(region, child))
    } catch (error) {
      // What it has begun goes on by itself, and the next one takes its place here.
      await this.#stopOne(child)
      throw error
    }
    onChange(this.addresses)
    child.once('exit', () => void this.#restart(region))
  }

  async stop(): Promise<void> {
    this.#stopping = true
    await Promise.all([...this.#children.values()].map((child) => this.#stopOne(child)))
  }

  #ready(region: RegionName, child: ChildProcess): Promise<string> {
    return new Promise((resolve, reject) => {
      const fail = (why: string) =>
        reject(
          new HoldfastError('server_failed', `the gateway of ${region} ${why}`, {
            hint: 'its own messages went to stderr',
          }),
        )
      const timer = setTimeout(() => {
        child.kill('SIGKILL')
        fail(`did not serve within ${readyWithinMs} ms`)
      }, readyWithinMs)
      child.once('message', (message: GatewayReady | GatewayRefusal) => {
        clearTimeout(timer)
        if ('url' in message) resolve(message.url)
        else reject(fromControlError(message.error))
      })
      child.once('exit', (code, signal) => {
        clearTimeout(timer)
        fail(`ended with ${signal ?? `exit code ${code}`}`)
      })
      child.once('error', (error) => {
        clearTimeout(timer)
        fail(`cannot run: ${error.message}`)
      })
    })
  }

  async #restart(region: RegionName): Promise<void> {
    if (this.#stopping) return
    const { clock, onChange, onTrouble } = this.#options
    this.#addresses.delete(region)
    onChange(this.addresses)
    for (let afterMs = restartAfterMs; ; afterMs = Math.min(2 * afterMs, restartAfterMsMax)) {
      await clock.sleep(afterMs)
      if (this.#stopping) return
      try {
        await this.start(region)
        return
      } catch (error) {
        if (!this.#stopping) onTrouble(region, error)
      }
    }
  }

  async #stopOne(child: ChildProcess): Promise<void> {
    const hasRun = child.pid !== undefined
    if (!hasRun || child.exitCode !== null || child.signalCode !== null) return
    const ended = new Promise<void>((resolve) => child.once('exit', () => resolve()))
    child.kill('SIGTERM')
    const giveUp = new AbortController()
    const late = this.#options.clock.sleep(stopWithinMs, giveUp.signal).then(
      () => child.kill('SIGKILL'),
      () => undefined,
    )
    await ended
    giveUp.abort()
    await late
  }
}
