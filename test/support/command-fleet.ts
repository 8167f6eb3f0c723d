import { rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { stringify } from 'yaml'
import { configBelow } from '../../examples/payledger/demo/config.ts'
import type { StepName } from '../../src/base/step.ts'
import { Command, runJson } from './command.ts'
import { temporaryFolder } from './fleet.ts'

/** PayLedger's fleet as `holdfast up` runs it, and commands that are about it. */
export class CommandFleet {
  readonly root: string
  readonly ready: Awaited<ReturnType<Command['ready']>>
  readonly #configFile: string
  #up: Command

  private constructor(parts: Pick<CommandFleet, 'root' | 'up' | 'ready'> & { readonly configFile: string }) {
    this.root = parts.root
    this.#up = parts.up
    this.ready = parts.ready
    this.#configFile = parts.configFile
  }

  /** `crashAt`: a step at which the supervisor kills itself. */
  static async open({ crashAt }: { readonly crashAt?: StepName } = {}): Promise<CommandFleet> {
    const root = await temporaryFolder()
    const configFile = join(root, 'holdfast.yaml')
    await writeFile(configFile, stringify({ ...(await configBelow(root)), listen: '127.0.0.1:0' }))
    const up = start(configFile, crashAt === undefined ? {} : { HOLDFAST_CRASH_AT: crashAt })
    return new CommandFleet({ root, configFile, up, ready: await up.ready() })
  }

  /** The process that holds the servers. */
  get up(): Command {
    return this.#up
  }

  /** Once the one before has ended, in whatever way. */
  async startAgain(): ReturnType<Command['ready']> {
    this.#up = start(this.#configFile)
    return this.#up.ready()
  }

  holdfast(...args: string[]): ReturnType<typeof runJson> {
    return runJson(...args, '--config', this.#configFile)
  }

  /** For a tenant of the payroll shard. */
  sql(statement: string, ...more: string[]): ReturnType<typeof runJson> {
    return this.holdfast('sql', statement, '--tenant', tenant, '--domain', 'payroll', ...more)
  }

  async addRun(id: string): Promise<{ readonly transactionId: string; readonly session: string }> {
    const text = `insert into payroll_runs (tenant, id, status, total_cents) values ('${tenant}', '${id}', 'draft', 100)`
    const { document } = await this.sql(text, '--action', 'payroll.draft', '--subject', id)
    return document as { transactionId: string; session: string }
  }

  async close(): Promise<void> {
    this.up.child.kill('SIGTERM')
    await this.up.ended
    await rm(this.root, { recursive: true, force: true, maxRetries: 5 })
  }
}

const start = (configFile: string, env?: Readonly<Record<string, string>>) =>
  new Command(['up', '--json', '--config', configFile], env)

export const tenant = 'globex-eu'
