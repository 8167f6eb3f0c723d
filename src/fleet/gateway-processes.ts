import { type ChildProcess, spawn } from 'node:child_process'
import type { Clock } from '../base/clock.ts'
import { HoldfastError } from '../base/errors.ts'
import type { RegionName } from '../directory/topology.ts'
import type { GatewayAddress } from './registry.ts'

/** The gateways that `up` runs, one process a region. One that dies is begun again: it holds nothing but open requests. */
export interface GatewayCommand {
  /** Path of the program, run by this Node. */
  readonly program: string
  readonly args: (region: RegionName) => readonly string[]
}

/** What a gateway says over its channel once it serves. */
export interface GatewayReady {
  readonly url: string
}

const readyWithinMs = 20_000
const restartAfterMs = 500
const stopWithinMs = 5_000

export class GatewayProcesses {
  readonly #command: GatewayCommand
  readonly #clock: Clock
  readonly #onChange: (gateways: readonly GatewayAddress[]) => void
  readonly #children = new Map<RegionName, ChildProcess>()
  readonly #addresses = new Map<RegionName, string>()
  #stopping = false

  constructor(command: GatewayCommand, clock: Clock, onChange: (gateways: readonly GatewayAddress[]) => void) {
    this.#command = command
    this.#clock = clock
    this.#onChange = onChange
  }

  get addresses(): GatewayAddress[] {
    return [...this.#addresses].map(([region, url]) => ({ region, url }))
  }

  /** Starts the gateway of a region; resolves when it serves. Throws the error that it ended with. */
  async start(region: RegionName): Promise<void> {
    const child = spawn(process.execPath, [this.#command.program, ...this.#command.args(region)], {
      // Ctrl-C reaches this process alone, which then stops the gateways before the servers.
      detached: true,
      stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
    })
    this.#children.set(region, child)
    const url = await this.#ready(region, child)
    this.#addresses.set(region, url)
    this.#onChange(this.addresses)
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
            hint: 'its own message stands above',
          }),
        )
      const timer = setTimeout(() => {
        child.kill('SIGKILL')
        fail(`did not serve within ${readyWithinMs} ms`)
      }, readyWithinMs)
      child.once('message', (message) => {
        clearTimeout(timer)
        resolve((message as GatewayReady).url)
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
    this.#addresses.delete(region)
    this.#onChange(this.addresses)
    while (!this.#stopping) {
      await this.#clock.sleep(restartAfterMs)
      if (this.#stopping) return
      try {
        await this.start(region)
        return
      } catch {
        // Its own message went to the log; it is tried again until the fleet stops.
      }
    }
  }

  async #stopOne(child: ChildProcess): Promise<void> {
    if (child.exitCode !== null || child.signalCode !== null) return
    const ended = new Promise<void>((resolve) => child.once('exit', () => resolve()))
    child.kill('SIGTERM')
    const giveUp = new AbortController()
    const late = this.#clock.sleep(stopWithinMs, giveUp.signal).then(
      () => child.kill('SIGKILL'),
      () => undefined,
    )
    await ended
    giveUp.abort()
    await late
  }
}
