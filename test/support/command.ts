import { type ChildProcess, spawn } from 'node:child_process'
import { fileURLToPath } from 'node:url'

const program = fileURLToPath(new URL('../../dist/cli/cli.js', import.meta.url))

export interface Ended {
  readonly code: number | null
  readonly signal: NodeJS.Signals | null
  readonly stdout: string
  readonly stderr: string
}

/** The built `holdfast` in a process of its own. */
export class Command {
  readonly child: ChildProcess
  readonly ended: Promise<Ended>
  #stdout = ''
  #stderr = ''

  constructor(args: readonly string[], env: Readonly<Record<string, string>> = {}) {
    this.child = spawn(process.execPath, [program, ...args], {
      env: { ...process.env, ...env },
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    this.child.stdout?.setEncoding('utf8').on('data', (text: string) => {
      this.#stdout += text
    })
    this.child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      this.#stderr += text
    })
    this.ended = new Promise((resolve) =>
      this.child.once('close', (code, signal) => resolve({ code, signal, stdout: this.#stdout, stderr: this.#stderr })),
    )
  }

  /** What it has written there so far. */
  get stderr(): string {
    return this.#stderr
  }

  /** The document that `up --json` prints when it is ready. */
  async ready(): Promise<{ gateways: { region: string; url: string }[]; tookMs: number; dataDir: string }> {
    const deadline = this.ended.then(({ code, stdout, stderr }) => {
      throw new Error(`ended with ${code} before it was ready: ${stdout}${stderr}`)
    })
    const printed = new Promise<string>((resolve) => {
      const look = () => {
        if (this.#stdout.trimEnd().endsWith('}')) resolve(this.#stdout)
      }
      this.child.stdout?.on('data', look)
      look()
    })
    return JSON.parse(await Promise.race([printed, deadline])) as Awaited<ReturnType<Command['ready']>>
  }
}

/** Far more than any command takes: one that hangs is to say so, and where it was. */
const endsWithinMs = 100_000

/** Runs a command to its end; all of stdout has to be one JSON document. */
export async function runJson(...args: string[]): Promise<{ code: number | null; document: unknown }> {
  const command = new Command([...args, '--json'])
  const late = setTimeout(() => command.child.kill('SIGKILL'), endsWithinMs)
  const { code, stdout, stderr } = await command.ended
  clearTimeout(late)
  try {
    return { code, document: JSON.parse(stdout) as unknown }
  } catch (cause) {
    throw new Error(`holdfast ${args.join(' ')} ended with ${code} and printed: ${stdout}${stderr}`, { cause })
  }
}
