import type { Violation } from './history.ts'

/**
 * The redo stream of one shard against the shard itself. Whoever applies it, in its order and nothing else, must come to the
 * rows that are there, and find at every step the row that the step says it changed. A transaction that is missing, that is
 * there twice, or that stands on the wrong side of one that touched the same row, leaves a row that nobody expects.
 */
export interface ReplayHistory {
  readonly shard: string
  /** False when a hole that is stated lies behind the beginning: it is judged from there on, by what the stream itself shows. */
  readonly isWhole: boolean
  /** In the order of the stream; when it is whole, from before every row that is there was written. */
  readonly redone: readonly Redone[]
  /** What the primary shows when all of it is in the stream, by place. */
  readonly last: Readonly<Record<string, string>>
}

export interface Redone {
  readonly name: string
  /** Where its commit record begins, as a number in text. */
  readonly position: string
  /** As a number in text; null where it has none of its own. */
  readonly timestamp: string | null
  readonly changes: readonly RowChanged[]
}

/** Images are texts; null is no row. */
export interface RowChanged {
  readonly place: string
  readonly before: string | null
  readonly after: string | null
}

interface Standing {
  readonly image: string | null
  readonly by: Redone
}

export function checkReplay(history: ReplayHistory): Violation[] {
  const { shard, redone } = history
  const rows = new Map<string, Standing>()
  const steps = redone.flatMap((one) => one.changes.flatMap((change) => replay(shard, rows, one, change)))
  return [...outOfOrder(history), ...steps, ...notThere(history, rows)]
}

/** Each once, by the positions of their commits. */
function outOfOrder({ shard, redone }: ReplayHistory): Violation[] {
  const seen = new Set<string>()
  return redone.flatMap(({ name, position }, at) => {
    const before = redone[at - 1]
    const isAgain = seen.has(name)
    seen.add(name)
    if (isAgain) return found('replayed twice', `${name} is in the stream of ${shard} again`)
    if (before === undefined || BigInt(before.position) < BigInt(position)) return []
    return found('replay order', `${name} at ${position} follows ${before.name} at ${before.position} on ${shard}`)
  })
}

function replay(shard: string, rows: Map<string, Standing>, one: Redone, { place, before, after }: RowChanged) {
  const standing = rows.get(place)
  rows.set(place, { image: after, by: one })
  // What it was before all of this is nobody's word.
  if (standing === undefined) return []
  const { image, by } = standing
  if (image !== before) {
    return found('replay', `${one.name} changes ${place} from ${before} on ${shard}, and ${by.name} left it ${image}`)
  }
  // Who waited for the row of another is stamped later.
  if (by === one || by.timestamp === null || one.timestamp === null) return []
  if (BigInt(by.timestamp) < BigInt(one.timestamp)) return []
  return found('replay timestamp', `${one.name} changes ${place} on ${shard} behind ${by.name}, and is not later`)
}

function notThere({ shard, isWhole, last }: ReplayHistory, rows: ReadonlyMap<string, Standing>): Violation[] {
  const places = new Set([...rows.keys(), ...(isWhole ? Object.keys(last) : [])])
  return [...places].flatMap((place) => {
    const replayed = rows.get(place)?.image ?? null
    const there = last[place] ?? null
    if (replayed === there) return []
    return found('replay', `${place} on ${shard} is ${there}, and ${replayed} by the stream`)
  })
}

function found(kind: string, explanation: string): Violation[] {
  return [{ kind, explanation, operations: [] }]
}
