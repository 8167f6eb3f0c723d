import { rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { stringify } from 'yaml'
import { configBelow } from '../../examples/payledger/demo/config.ts'
import { Command, runJson } from './command.ts'
import { temporaryFolder } from './fleet.ts'

/** PayLedger's fleet as `holdfast up` runs it, and commands that are about it. */
export class CommandFleet {
  readonly root: string
  readonly up: Command
  readonly ready: Awaited<ReturnType<Command['ready']>>
  readonly #configFile: string

  private constructor(parts: Pick<CommandFleet, 'root' | 'up' | 'ready'> & { readonly configFile: string }) {
    this.root = parts.root
    this.up = parts.up
    this.ready = parts.ready
    this.#configFile = parts.configFile
  }

  static async open(): Promise<CommandFleet> {
    const root = await temporaryFolder()
    const configFile = join(root, 'holdfast.yaml')
    await writeFile(configFile, stringify({ ...(await configBelow(root)), listen: '127.0.0.1:0' }))
    const up = new Command(['up', '--json', '--config', configFile])
    return new CommandFleet({ root, configFile, up, ready: await up.ready() })
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

export const tenant = 'globex-eu'
