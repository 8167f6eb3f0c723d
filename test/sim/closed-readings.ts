import type { Violation } from './history.ts'

/**
 * The oracle of the closed timestamp: whoever was shown a closed timestamp was shown everything at or below it. Each
 * reading is one snapshot of a node; the last one of each shard is taken when all that ran is known.
 */
export interface ClosedHistory {
  readonly readings: readonly ClosedReading[]
  /** Per shard, every commit in the order of timestamps, with its digest and that of all before it. */
  readonly last: Readonly<Record<string, readonly Committed[]>>
  /** Per shard, where the history of each of its primaries ended: a position up to which the next one has it. */
  readonly forks: Readonly<Record<string, Readonly<Record<string, string>>>>
}

export interface ClosedReading {
  readonly shard: string
  readonly node: string
  /** By its id. */
  readonly history: string
  /** Where the node was after its snapshot was taken, as a number in text: all that it showed lies before. */
  readonly position: string
  readonly closed: string
  /** Of what lies at or below the closed timestamp: how many, and a digest of their ids in order. */
  readonly count: number
  readonly digest: string
}

export interface Committed {
  readonly timestamp: string
  /** Of this one and all before it. */
  readonly digest: string
}

/** What a node had beyond the fork of its history may be gone, and whoever saw it is told so; all else must agree. */
export function checkClosed({ readings, last, forks }: ClosedHistory): Violation[] {
  return readings.flatMap(({ shard, node, history, position, closed, count, digest }) => {
    const fork = forks[shard]?.[history]
    if (fork !== undefined && BigInt(position) > BigInt(fork)) return []
    const below = (last[shard] ?? []).filter(({ timestamp }) => BigInt(timestamp) <= BigInt(closed))
    const whole = below.at(-1)?.digest ?? ''
    if (count === below.length && digest === whole) return []
    const explanation = `${node} showed ${count} commits at or below its closed ${closed}, of ${below.length}`
    return [{ kind: 'closed too early', explanation, operations: [] }]
  })
}
