import type { ShardName, TransactionId } from '../directory/topology.ts'
import type { Decision } from './decision-store.ts'

/**
 * Which records of a home may be collected, as a function of what was seen. No I/O, no time.
 *
 * A record is what settles a branch. Were it gone while a branch can still come to light, by a failover, from a backup
 * or from a coordinator that slept, the branch would be presumed aborted and a commit undone (HZ-X2). So below the
 * watermark nothing is presumed at all (K1), and a record goes only when nobody will ask for it any more:
 *
 *   K2  No branch of it is prepared on any shard, and none can be: every shard was told the watermark, refuses to
 *       prepare what was born below it, and whoever was open when it was told has ended.
 *   K3  Its decision is carried out: the branch of a COMMITTED one is visible on each of its participants, of an ABORTED
 *       one on none. Anything else is for a person.
 *   K4  What shows K2 and K3 is on the followers and in the archive of every shard.
 *
 * Where one may not go, the watermark stays at or below its birth.
 */
export interface RecordFacts {
  readonly transactionId: TransactionId
  /** Milliseconds of its id. */
  readonly bornMs: number
  readonly outcome: Decision['outcome']
  readonly participants: readonly ShardName[]
}

/** What one shard showed after it was told of the watermark, replicated. */
export type ShardFacts =
  | {
      readonly kind: 'seen'
      /** Of this home, of whatever age. */
      readonly prepared: readonly Pick<RecordFacts, 'transactionId' | 'bornMs'>[]
      /** Those of the records' branches whose row is visible. */
      readonly visible: ReadonlySet<TransactionId>
    }
  /** It did not answer, its transactions did not end, or its archive is not there yet. */
  | { readonly kind: 'not seen'; readonly why: string }

export interface CollectionVerdict {
  /** The watermark that the records which may go need; undefined when none may. */
  readonly throughMs: number | undefined
  readonly collect: readonly TransactionId[]
  readonly left: readonly LeftRecord[]
}

export interface LeftRecord {
  readonly why: string
  readonly needsPerson: boolean
}

/** The watermark to tell of, for a page of records in the order of their births. */
export function aimOf(records: readonly RecordFacts[], isLastPage: boolean): number | undefined {
  const last = records.at(-1)
  if (last === undefined) return undefined
  // The next page may begin in the same millisecond.
  return isLastPage ? last.bornMs + 1 : last.bornMs
}

export function judgeCollection(
  aimMs: number,
  records: readonly RecordFacts[],
  shards: ReadonlyMap<ShardName, ShardFacts>,
): CollectionVerdict {
  const left: LeftRecord[] = []
  for (const [shard, facts] of shards) {
    if (facts.kind === 'not seen') left.push({ why: `${shard}: ${facts.why}`, needsPerson: false })
  }
  if (left.length > 0) return { throughMs: undefined, collect: [], left }

  let throughMs = aimMs
  const stopAt = (bornMs: number, why: string, needsPerson: boolean) => {
    if (bornMs >= aimMs) return
    left.push({ why, needsPerson })
    throughMs = Math.min(throughMs, bornMs)
  }
  for (const [shard, facts] of shards) {
    if (facts.kind === 'not seen') continue
    for (const { transactionId, bornMs } of facts.prepared) {
      stopAt(bornMs, `the branch of ${transactionId} on ${shard} is prepared`, false)
    }
  }
  for (const record of records) {
    const why = whyUnsettled(record, shards)
    if (why !== undefined) stopAt(record.bornMs, why, true)
  }
  const collect = records.filter(({ bornMs }) => bornMs < throughMs).map(({ transactionId }) => transactionId)
  return { throughMs: collect.length === 0 ? undefined : throughMs, collect, left }
}

/** K3; undefined when the decision is carried out. */
function whyUnsettled(
  { transactionId, outcome, participants }: RecordFacts,
  shards: ReadonlyMap<ShardName, ShardFacts>,
): string | undefined {
  for (const participant of participants) {
    const facts = shards.get(participant)
    if (facts?.kind !== 'seen')
      return `${participant}, where ${transactionId} has a branch, is not a shard of this fleet`
    const isVisible = facts.visible.has(transactionId)
    if (outcome === 'COMMITTED' && !isVisible) {
      return `${transactionId} is decided COMMITTED, and ${participant} has neither its branch nor its row`
    }
    if (outcome === 'ABORTED' && isVisible) {
      return `${transactionId} is decided ABORTED, and ${participant} has committed its branch`
    }
  }
  return undefined
}
