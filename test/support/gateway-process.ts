import { type ChildProcess, spawn } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import type { StepOrder, StepTold } from '../../src/cli/step-control.ts'
import type { StepName, StepPlace } from '../../src/base/step.ts'
import type { GatewayReady } from '../../src/fleet/gateway-processes.ts'

export interface GatewayProcessOptions {
  readonly dataDir: string
  readonly region: string
  /** Kills itself there, as `kill -9` would. */
  readonly crashAt?: StepName
  /** Stops at steps, and tells: at this one first, or at none before `pauseAt`. */
  readonly pauses?: { readonly at: StepName; readonly shard: string } | 'when told'
  readonly env?: Readonly<Record<string, string>>
  /** Its log is dropped: under faults it says much. */
  readonly quiet?: boolean
}

export interface Reached {
  readonly step: StepName
  readonly where: StepPlace
}

/** A gateway of its own process, from the built command. */
export class GatewayProcess {
  readonly url: string
  readonly #child: ChildProcess
  readonly #ended: Promise<NodeJS.Signals | null>
  readonly #reached: Reached[]

  private constructor(child: ChildProcess, url: string, ended: Promise<NodeJS.Signals | null>, reached: Reached[]) {
    this.#child = child
    this.url = url
    this.#ended = ended
    this.#reached = reached
  }

  static async start(options: GatewayProcessOptions): Promise<GatewayProcess> {
    const { dataDir, region, env, quiet = false } = options
    const program = fileURLToPath(new URL('../../dist/cli/cli.js', import.meta.url))
    const child = spawn(
      process.execPath,
      [program, 'gateway', '--data-dir', dataDir, '--region', region, '--port', '0'],
      {
        env: { ...process.env, ...env, ...stepSettings(options) },
        stdio: ['ignore', 'ignore', quiet ? 'ignore' : 'inherit', 'ipc'],
      },
    )
    const ended = new Promise<NodeJS.Signals | null>((resolve) =>
      child.once('exit', (_code, signal) => resolve(signal)),
    )
    const reached: Reached[] = []
    child.on('message', (message: StepTold | GatewayReady) => {
      if ('reached' in message) reached.push({ step: message.reached, where: message.where })
    })
    const url = await new Promise<string>((resolve, reject) => {
      child.on('message', (message: StepTold | GatewayReady) => {
        if ('url' in message) resolve(message.url)
      })
      void ended.then((signal) => reject(new Error(`the gateway ended before it served: ${signal}`)))
    })
    return new GatewayProcess(child, url, ended, reached)
  }

  get pid(): number {
    if (this.#child.pid === undefined) throw new Error('the gateway was never started')
    return this.#child.pid
  }

  get isRunning(): boolean {
    return this.#child.exitCode === null && this.#child.signalCode === null
  }

  /** The signal that it ended by. */
  ended(): Promise<NodeJS.Signals | null> {
    return this.#ended
  }

  /** Also one that a signal has stopped. */
  async stop(): Promise<void> {
    this.#child.kill('SIGCONT')
    this.#child.kill('SIGTERM')
    await this.#ended
  }

  kill(signal: 'SIGKILL' | 'SIGSTOP' | 'SIGCONT'): void {
    this.#child.kill(signal)
  }

  /** The next time that it reaches the step, it stops there. Forgets what was reached before. */
  async pauseAt(step: StepName, shard: string | null): Promise<void> {
    this.#reached.length = 0
    const told = new Promise<void>((resolve) => {
      const listener = (message: StepTold) => {
        if (!('willPauseAt' in message)) return
        this.#child.off('message', listener)
        resolve()
      }
      this.#child.on('message', listener)
    })
    this.#order({ pauseAt: step, shard })
    await told
  }

  /** Where it stopped last; undefined before it did. */
  reached(): Reached | undefined {
    return this.#reached.at(-1)
  }

  goOn(): void {
    if (this.#child.connected) this.#order({ goOn: true })
  }

  async post(
    path: string,
    body: unknown,
    headers: Readonly<Record<string, string>> = {},
    signal?: AbortSignal,
  ): Promise<Response> {
    return fetch(new URL(path, this.url), {
      method: 'POST',
      headers: { 'content-type': 'application/json', ...headers },
      body: JSON.stringify(body),
      signal: signal ?? null,
    })
  }

  #order(order: StepOrder): void {
    // One that was killed a moment ago hears nothing any more.
    this.#child.send(order, () => undefined)
  }
}

function stepSettings({ crashAt, pauses }: GatewayProcessOptions): Readonly<Record<string, string>> {
  if (crashAt !== undefined) return { HOLDFAST_CRASH_AT: crashAt }
  if (pauses === undefined) return {}
  return { HOLDFAST_PAUSE_AT: pauses === 'when told' ? '' : `${pauses.at} on ${pauses.shard}` }
}
