import { readFile, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { z } from 'zod'
import { storeDurably } from '../base/durable-files.ts'
import type { Epoch, HistoryId, ShardName, TransactionId } from '../directory/topology.ts'
import type { Compensation, ShardCutover, ShardStanding } from './cutover-plan.ts'

/**
 * How far a cutover is, in a file beside the environment. Up to `switching` the fleet can go back to what it was, and a
 * cutover that is run again begins again; from there on it only goes forward, with what the file says.
 */
export type CutoverJournal =
  | { readonly state: 'fencing'; readonly standings: readonly ShardStanding[] }
  | ({ readonly state: 'switching' } & CutoverDecision)
  | ({ readonly state: 'done'; readonly compensations: readonly Compensation[] } & CutoverDecision)

export interface CutoverDecision {
  readonly standings: readonly ShardStanding[]
  readonly shards: readonly ShardCutover[]
  readonly leftOut: readonly string[]
  readonly leftOutIds: readonly TransactionId[]
}

const shardName = z.string().transform((name) => name as ShardName)
const epoch = z.number().transform((value) => value as Epoch)
const standings = z.array(z.object({ shard: shardName, epoch, isAlive: z.boolean() }))
const decision = {
  standings,
  shards: z.array(
    z.discriminatedUnion('kind', [
      z.object({ kind: z.literal('keep'), shard: shardName, epoch }),
      z.object({
        kind: z.literal('switch'),
        shard: shardName,
        epoch,
        historyId: z.string().transform((id) => id as HistoryId),
      }),
    ]),
  ),
  leftOut: z.array(z.string()),
  leftOutIds: z.array(z.string().transform((id) => id as TransactionId)),
}
const compensations = z.array(
  z.object({
    eventId: z.string(),
    transactionId: z.string(),
    tenant: z.string(),
    name: z.string(),
    delivered: z.enum(['certainly', 'possibly']),
  }),
)
const form = z.discriminatedUnion('state', [
  z.object({ state: z.literal('fencing'), standings }),
  z.object({ state: z.literal('switching'), ...decision }),
  z.object({ state: z.literal('done'), ...decision, compensations }),
])

const fileName = 'cutover.json'

export async function loadJournal(folder: string): Promise<CutoverJournal | undefined> {
  try {
    return form.parse(JSON.parse(await readFile(join(folder, fileName), 'utf8')))
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return undefined
    throw error
  }
}

export async function storeJournal(folder: string, journal: CutoverJournal): Promise<void> {
  await storeDurably(join(folder, fileName), Buffer.from(`${JSON.stringify(journal, null, 2)}\n`))
}

export async function dropJournal(folder: string): Promise<void> {
  await rm(join(folder, fileName), { force: true })
}
