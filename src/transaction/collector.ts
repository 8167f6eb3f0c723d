import { present } from '../base/assert.ts'
import type { ShardName, ShardTopology, TransactionId } from '../directory/topology.ts'
import type { Statement, StatementOutcome } from '../postgres/statement.ts'
import { accepted } from '../postgres/statement.ts'
import type { CollectionVerdict, RecordFacts, ShardFacts } from './collection.ts'
import { aimOf, judgeCollection } from './collection.ts'
import { CollectionDrains } from './collection-drains.ts'
import type { LogPlace } from './collection-store.ts'
import * as collections from './collection-store.ts'
import * as decisions from './decision-store.ts'
import type { TransactionEnvironment } from './environment.ts'
import { shardOf } from './environment.ts'
import { gidPrefix, parseGid } from './gid.ts'
import { describe } from './in-doubt.ts'

/**
 * Collects the records of one home that nobody will ask for any more; `collection.ts` says which.
 *
 *   announce to every shard, see it drained, settled, replicated, archived --> raise the watermark at home --barrier, drained-->
 *   remove the records below it
 *
 * Every step may be the last of its process. The next pass begins anew: told twice, raised twice, removed twice is the same. Only
 * who has ended is remembered from pass to pass, in `collection-drains.ts`; a process that has forgotten it waits for longer.
 */
export interface CollectionOptions {
  /** No restore goes back further, and no transaction lives for that long. */
  readonly windowMs: number
  /** How far log and redo stream of a shard are archived, by its primary of that moment; undefined while they are not. */
  readonly archivedThrough: (shard: ShardTopology) => Promise<LogPlace | 'no archive' | undefined>
  readonly limits?: CollectionLimits
}

export interface CollectionLimits {
  readonly everyMs: number
  /** Records of one pass. */
  readonly pageMax: number
  /** For the transactions that were open, and for the archive, to get there; else it is left to the next pass. */
  readonly drainWithinMs: number
  readonly archiveWithinMs: number
  readonly pollMs: number
}

export const collectionLimitsDefault: CollectionLimits = {
  everyMs: 60_000,
  pageMax: 1_000,
  drainWithinMs: 5_000,
  archiveWithinMs: 30_000,
  pollMs: 250,
}

export interface Collected extends CollectionVerdict {
  readonly removed: number
  /** Whether another pass would find more at once. */
  readonly isLastPage: boolean
}

/** One pass over one home, with what was seen by those before. Throws what its servers throw; then nothing is lost but the pass. */
export async function collectOnce(
  environment: TransactionEnvironment,
  home: ShardName,
  options: CollectionOptions,
  drains = new CollectionDrains(),
  signal?: AbortSignal,
): Promise<Collected> {
  const { windowMs, limits = collectionLimitsDefault } = options
  const { onStep, metrics, barriers } = environment
  const at = shardOf(environment, home)
  const [found] = await ask(environment, at, [
    collections.selectOldRecords(environment.clock.wallMs(), windowMs, limits.pageMax),
  ])
  const records = collections.readRecords(present(found, 'the old records'))
  const isEnd = records.length < limits.pageMax
  const dueMs = aimOf(records, isEnd)
  metrics.gauge('collection_backlog', records.length, { shard: home })
  if (dueMs === undefined) return { throughMs: undefined, collect: [], left: [], removed: 0, isLastPage: isEnd }

  const aimMs = drains.aim(dueMs)
  const isLastPage = isEnd && aimMs === dueMs
  const witness = new CollectionWitness(environment, at, records, aimMs, drains, options, signal)
  const facts = await witness.askAll()
  const verdict = judgeCollection(aimMs, records, facts)
  if (verdict.throughMs === undefined) {
    if ([...facts.values()].every(({ kind }) => kind === 'seen')) drains.endAim()
    return { ...verdict, removed: 0, isLastPage }
  }
  await ask(environment, at, [collections.raiseCollection(verdict.throughMs, at.epoch)])
  await onStep('collector watermark raised', { shard: home })
  await barriers.pass(home, at.primary.id)
  // A decision that asks an older snapshot is not refused by the watermark; the record is what refuses it.
  if (!(await witness.isDrained(at, verdict.throughMs))) {
    const why = `${home}: ${notDrained}`
    return { ...verdict, left: [...verdict.left, { why, needsPerson: false }], removed: 0, isLastPage }
  }
  const [removal] = await ask(environment, at, [collections.collectRecords(verdict.collect, at.epoch)])
  const removed = collections.readCollected(present(removal, 'the removed records'))
  drains.endAim()
  await onStep('global record collected', { shard: home })
  for (let counted = 0; counted < removed; counted += 1) metrics.count('records_collected_total', { shard: home })
  return { ...verdict, removed, isLastPage }
}

/** In autocommit, on the primary of a shard. Throws what one of them is refused with. */
export async function ask(
  { pools, targetOf, limits }: TransactionEnvironment,
  { primary }: ShardTopology,
  statements: readonly Statement[],
): Promise<StatementOutcome[]> {
  const outcomes = await pools.flight(targetOf(primary), statements, limits.serviceWithinMs)
  for (const outcome of outcomes) accepted(outcome)
  return outcomes
}

/** What every shard shows for K2 to K4, on the servers that were its primaries when the pass began. */
class CollectionWitness {
  readonly #environment: TransactionEnvironment
  readonly #home: ShardTopology
  readonly #ids: readonly TransactionId[]
  readonly #aimMs: number
  readonly #drains: CollectionDrains
  readonly #archivedThrough: CollectionOptions['archivedThrough']
  readonly #limits: CollectionLimits
  readonly #signal: AbortSignal | undefined

  constructor(
    environment: TransactionEnvironment,
    home: ShardTopology,
    records: readonly RecordFacts[],
    aimMs: number,
    drains: CollectionDrains,
    { archivedThrough, limits = collectionLimitsDefault }: CollectionOptions,
    signal: AbortSignal | undefined,
  ) {
    this.#environment = environment
    this.#home = home
    this.#ids = records.map(({ transactionId }) => transactionId)
    this.#aimMs = aimMs
    this.#drains = drains
    this.#archivedThrough = archivedThrough
    this.#limits = limits
    this.#signal = signal
  }

  /** A shard of local durability has no branches (HF011). */
  async askAll(): Promise<ReadonlyMap<ShardName, ShardFacts>> {
    const { topology } = this.#environment
    const shards = [...topology.current().shards.values()].filter(({ durability }) => durability !== 'local')
    return new Map(await Promise.all(shards.map(async (shard) => [shard.name, await this.#ask(shard)] as const)))
  }

  async #ask(shard: ShardTopology): Promise<ShardFacts> {
    try {
      const facts = shard.name === this.#home.name ? nothingHere : await this.#askParticipant(shard)
      if (facts.kind === 'not seen') return facts
      await this.#environment.barriers.pass(shard.name, shard.primary.id)
      return (await this.#isArchived(shard)) ? facts : { kind: 'not seen', why: 'its archive has not come this far' }
    } catch (error) {
      return { kind: 'not seen', why: describe(error) }
    }
  }

  async #askParticipant(shard: ShardTopology): Promise<ShardFacts> {
    const { fleet, onStep } = this.#environment
    const home = this.#home.name
    await ask(this.#environment, shard, [collections.announceCollection(home, this.#home.epoch, this.#aimMs)])
    await onStep('collector announced', { shard: shard.name })
    if (!(await this.isDrained(shard, this.#aimMs))) return { kind: 'not seen', why: notDrained }
    // In this order: a branch that is settled in between is seen as visible.
    const [prepared, visible] = await ask(this.#environment, shard, [
      decisions.selectPrepared(gidPrefix(fleet)),
      collections.selectVisibleBranches(this.#ids),
    ])
    const names = decisions.readPrepared(present(prepared, 'what is prepared')).flatMap(({ gid }) => {
      const name = parseGid(gid, fleet, shard.name)
      if (name?.home !== home) return []
      return [{ transactionId: name.transactionId, bornMs: collections.bornMsOf(name.transactionId) }]
    })
    const seen = collections.readVisibleBranches(present(visible, 'the visible branches'))
    return { kind: 'seen', prepared: names, visible: seen }
  }

  /** Whether all that was open after a watermark was written there has ended: what began later has seen it. */
  isDrained(shard: ShardTopology, throughMs: number): Promise<boolean> {
    return this.#within(this.#limits.drainWithinMs, async () => {
      const [outcome] = await ask(this.#environment, shard, [collections.selectOpenTransactions])
      const open = collections.readOpenTransactions(present(outcome, 'the open transactions'))
      return this.#drains.narrow(shard, throughMs, open)
    })
  }

  async #isArchived(shard: ShardTopology): Promise<boolean> {
    const [outcome] = await ask(this.#environment, shard, [collections.selectLogPlace])
    const place = collections.readLogPlace(present(outcome, 'the place in the log'))
    return this.#within(this.#limits.archiveWithinMs, async () => {
      const through = await this.#archivedThrough(shard)
      if (through === 'no archive') return true
      return through !== undefined && through.timeline === place.timeline && through.lsn >= place.lsn
    })
  }

  async #within(limitMs: number, holds: () => Promise<boolean>): Promise<boolean> {
    const { clock } = this.#environment
    const deadline = clock.monotonicMs() + limitMs
    for (;;) {
      if (await holds()) return true
      if (clock.monotonicMs() > deadline) return false
      await clock.sleep(this.#limits.pollMs, this.#signal)
    }
  }
}

const notDrained = 'transactions that were open have not ended'
const nothingHere: ShardFacts = { kind: 'seen', prepared: [], visible: new Set() }
