import { type ChildProcess, spawn } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import type { GatewayReady } from '../../src/fleet/gateway-processes.ts'
import type { StepName } from '../../src/base/step.ts'

/** A gateway of its own process, from the built command, that may kill itself at a step as `kill -9` would. */
export class GatewayProcess {
  readonly url: string
  readonly #child: ChildProcess
  readonly #ended: Promise<NodeJS.Signals | null>

  private constructor(child: ChildProcess, url: string, ended: Promise<NodeJS.Signals | null>) {
    this.#child = child
    this.url = url
    this.#ended = ended
  }

  static async start(options: { dataDir: string; region: string; crashAt?: StepName }): Promise<GatewayProcess> {
    const { dataDir, region, crashAt } = options
    const program = fileURLToPath(new URL('../../dist/cli/cli.js', import.meta.url))
    const child = spawn(
      process.execPath,
      [program, 'gateway', '--data-dir', dataDir, '--region', region, '--port', '0'],
      {
        env: { ...process.env, ...(crashAt === undefined ? {} : { HOLDFAST_CRASH_AT: crashAt }) },
        stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
      },
    )
    const ended = new Promise<NodeJS.Signals | null>((resolve) =>
      child.once('exit', (_code, signal) => resolve(signal)),
    )
    const url = await new Promise<string>((resolve, reject) => {
      child.once('message', (message) => resolve((message as GatewayReady).url))
      void ended.then((signal) => reject(new Error(`the gateway ended before it served: ${signal}`)))
    })
    return new GatewayProcess(child, url, ended)
  }

  /** The signal that it ended by. */
  ended(): Promise<NodeJS.Signals | null> {
    return this.#ended
  }

  async stop(): Promise<void> {
    this.#child.kill('SIGTERM')
    await this.#ended
  }

  async post(path: string, body: unknown, headers: Readonly<Record<string, string>> = {}): Promise<Response> {
    return fetch(new URL(path, this.url), {
      method: 'POST',
      headers: { 'content-type': 'application/json', ...headers },
      body: JSON.stringify(body),
    })
  }
}
