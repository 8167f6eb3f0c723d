import { mkdir, readdir, readFile, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { z } from 'zod'
import { storeDurably } from '../base/durable-files.ts'
import { HoldfastError } from '../base/errors.ts'
import type { RegionName, ShardName } from '../directory/topology.ts'
import { toHlc } from '../hlc/hlc.ts'
import { toLsn } from '../postgres/lsn.ts'
import type { Stop } from './cut.ts'
import type { DrillReport } from './drill-report.ts'
import type { RecoveryTarget } from './target.ts'

/**
 * A restored environment, as a file says it: `environments/<id>/environment.json`. It is written before the first server is
 * provisioned, so that whatever a crash leaves behind can be found and dropped.
 */
export interface Environment {
  readonly id: string
  readonly createdAt: string
  /** `restored`: its checks passed. `adopted`: a cutover gave its servers to the fleet. */
  readonly state: 'restoring' | 'failed' | 'restored' | 'adopted'
  readonly target: RecoveryTarget
  /** What was asked to be left out. */
  readonly without: readonly string[]
  readonly shards: readonly EnvironmentShard[]
  readonly report: DrillReport | null
  /** For the sake of its report alone: removed once that is there, and at the next drill where a crash came before. */
  readonly isDrill: boolean
}

export interface EnvironmentShard {
  readonly shard: ShardName
  readonly region: RegionName
  readonly serverId: string
  readonly dataDir: string
  readonly walDir: string
  readonly address: { readonly host: string; readonly port: number } | null
  /** Where the physical replay ended, which is where its history leaves the fleet's. */
  readonly stop: Stop
}

const targetForm: z.ZodType<RecoveryTarget> = z.discriminatedUnion('kind', [
  z.object({ kind: z.literal('before'), transaction: z.string() }),
  z.object({
    kind: z.literal('at'),
    timestamp: z.string().transform((text) => toHlc(BigInt(text))),
    transactionId: z.string().nullable(),
  }),
  z.object({ kind: z.literal('time'), wallMs: z.number() }),
  z.object({ kind: z.literal('end') }),
]) as z.ZodType<RecoveryTarget>

const position = z.string().transform((text) => toLsn(BigInt(text)))

const form = z.object({
  format: z.literal(1),
  id: z.string(),
  createdAt: z.string(),
  state: z.enum(['restoring', 'failed', 'restored', 'adopted']),
  target: targetForm,
  without: z.array(z.string()),
  shards: z.array(
    z.object({
      shard: z.string().transform((name) => name as ShardName),
      region: z.string().transform((name) => name as RegionName),
      serverId: z.string(),
      dataDir: z.string(),
      walDir: z.string(),
      address: z.object({ host: z.string(), port: z.number() }).nullable(),
      stop: z.discriminatedUnion('kind', [
        z.object({ kind: z.literal('before'), lsn: position }),
        z.object({ kind: z.literal('after'), lsn: position, through: position }),
      ]),
    }),
  ),
  report: z.custom<DrillReport>((value) => typeof value === 'object' && value !== null).nullable(),
  isDrill: z.boolean().default(false),
})

const idForm = /^[a-z0-9][a-z0-9-]{0,31}$/

/** The environments of a folder. */
export class EnvironmentRegistry {
  readonly #folder: string

  constructor(folder: string) {
    this.#folder = folder
  }

  /** The folder of one environment, for what belongs to it. */
  folderOf(id: string): string {
    if (idForm.test(id)) return join(this.#folder, id)
    throw new HoldfastError('argument_invalid', `not an environment: ${JSON.stringify(id)}`)
  }

  async store(environment: Environment): Promise<void> {
    const folder = this.folderOf(environment.id)
    await mkdir(folder, { recursive: true, mode: 0o700 })
    const json = JSON.stringify({ format: 1, ...environment }, withBigints, 2)
    await storeDurably(join(folder, 'environment.json'), Buffer.from(`${json}\n`))
  }

  /** Throws `unknown_environment`. */
  async load(id: string): Promise<Environment> {
    const known = idForm.test(id) ? await readOptional(join(this.folderOf(id), 'environment.json')) : undefined
    if (known === undefined) {
      const others = (await this.list()).map((one) => one.id)
      throw new HoldfastError('unknown_environment', `no environment ${JSON.stringify(id)}`, {
        hint: others.length === 0 ? 'holdfast restore makes one' : `there are ${others.join(', ')}`,
      })
    }
    const { format: _, ...environment } = form.parse(JSON.parse(known))
    return environment
  }

  /** Oldest first; whole or not at all. */
  async list(): Promise<Environment[]> {
    const names = await listOptional(this.#folder)
    const found: Environment[] = []
    for (const name of names) {
      const text = await readOptional(join(this.#folder, name, 'environment.json'))
      if (text === undefined) continue
      const { format: _, ...environment } = form.parse(JSON.parse(text))
      found.push(environment)
    }
    return found.sort((a, b) => (a.createdAt < b.createdAt ? -1 : 1))
  }

  async remove(id: string): Promise<void> {
    await rm(this.folderOf(id), { recursive: true, force: true })
  }
}

/** A folder that cannot be read has environments all the same. */
async function listOptional(path: string): Promise<string[]> {
  try {
    return await readdir(path)
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return []
    throw error
  }
}

async function readOptional(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, 'utf8')
  } catch (error) {
    if (error instanceof Error && 'code' in error && (error.code === 'ENOENT' || error.code === 'ENOTDIR')) {
      return undefined
    }
    throw error
  }
}

function withBigints(_: string, value: unknown): unknown {
  return typeof value === 'bigint' ? value.toString() : value
}
