import { assert } from '../base/assert.ts'
import type { Hlc } from '../hlc/hlc.ts'
import { parseLsn } from '../postgres/lsn.ts'

/**
 * The merged history of the fleet: every committed transaction once, in the order of commit timestamps. Here is the
 * value and the merge; `timeline-reader.ts` asks the shards.
 */

/**
 * One committed transaction. It carries the business action and nothing of the rows: regulated fields do not leave
 * home.
 */
export interface TimelineEntry {
  /** The transaction id; `shard@LSN` for a commit that no gateway stamped. */
  readonly name: string
  /** Null for an unattributed commit. */
  readonly transactionId: string | null
  /** Of an unattributed commit the highest stamp before it in its shard's log: it happened after that. */
  readonly commitTimestamp: Hlc
  readonly tenant: string | null
  readonly action: string | null
  readonly subject: string | null
  readonly actor: string | null
  /** Every shard that was written, the home first. */
  readonly shards: readonly string[]
  readonly attributed: boolean
}

export interface TimelineRange {
  /** One tenant's; all tenants' when left out. Unattributed commits belong to no tenant. */
  readonly tenant?: string | undefined
  /** From this commit timestamp on, itself included. */
  readonly since?: Hlc | undefined
  /** Up to this commit timestamp, itself excluded. */
  readonly until?: Hlc | undefined
  /** Behind this entry, or the position that one had: where a page goes on that ended with it. */
  readonly after?: TimelinePosition | undefined
}

/** Where an entry stands, which is all that the order looks at. An entry is its own position. */
export type TimelinePosition = Pick<TimelineEntry, 'commitTimestamp' | 'attributed' | 'name'>

/**
 * The order of the merged history: by commit timestamp, ties by transaction id. Unattributed commits come after all
 * that were stamped with the stamp before them; among each other by shard and position.
 */
export function compareEntries(a: TimelinePosition, b: TimelinePosition): number {
  if (a.commitTimestamp !== b.commitTimestamp) return a.commitTimestamp < b.commitTimestamp ? -1 : 1
  if (a.attributed !== b.attributed) return a.attributed ? -1 : 1
  const [ofA, ofB] = a.attributed ? [a.name, b.name] : [placeOf(a), placeOf(b)]
  if (ofA === ofB) return 0
  return ofA < ofB ? -1 : 1
}

/** `shard@LSN`, such that the order of texts is that of positions. */
function placeOf({ name }: TimelinePosition): string {
  const at = name.lastIndexOf('@')
  return `${name.slice(0, at)}@${parseLsn(name.slice(at + 1))
    .toString(16)
    .padStart(16, '0')}`
}

/**
 * Merges histories that are each in order. A transaction that several shards have comes once (V5), as its home tells
 * it: the entry with the most shards, of equal ones the first.
 */
export async function* mergeTimelines(
  histories: readonly AsyncIterable<TimelineEntry>[],
): AsyncGenerator<TimelineEntry> {
  const heads = await Promise.all(histories.map((history) => Head.of(history)))
  try {
    for (;;) {
      const first = earliest(heads)
      if (first === undefined) return
      let told = first
      for (const head of heads) {
        if (head.entry === undefined || compareEntries(head.entry, first) !== 0) continue
        if (head.entry.shards.length > told.shards.length) told = head.entry
        await head.advance()
      }
      yield told
    }
  } finally {
    await Promise.all(heads.map((head) => head.close()))
  }
}

function earliest(heads: readonly Head[]): TimelineEntry | undefined {
  return heads.reduce<TimelineEntry | undefined>((least, { entry }) => {
    if (entry === undefined) return least
    return least === undefined || compareEntries(entry, least) < 0 ? entry : least
  }, undefined)
}

/** The next entry of one history. */
class Head {
  readonly #iterator: AsyncIterator<TimelineEntry>
  entry: TimelineEntry | undefined

  private constructor(iterator: AsyncIterator<TimelineEntry>) {
    this.#iterator = iterator
  }

  static async of(history: AsyncIterable<TimelineEntry>): Promise<Head> {
    const head = new Head(history[Symbol.asyncIterator]())
    await head.advance()
    return head
  }

  async advance(): Promise<void> {
    const before = this.entry
    const next = await this.#iterator.next()
    this.entry = next.done === true ? undefined : next.value
    assert(
      before === undefined || this.entry === undefined || compareEntries(before, this.entry) < 0,
      `a history is in order: ${before?.name} before ${this.entry?.name}`,
    )
  }

  async close(): Promise<void> {
    await this.#iterator.return?.()
  }
}
