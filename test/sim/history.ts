/**
 * What the clients of a workload saw, as checkers take it. A checker is a pure function over a history: it knows nothing of
 * who made it, and nothing of how Holdfast works.
 */
export interface Operation {
  /** Its place in the history. */
  readonly index: number
  /** A client does one thing at a time: the order of its operations is the order of a session. */
  readonly client: number
  /** Milliseconds of one monotonic clock. */
  readonly invokedAt: number
  /** Infinity while nobody knows how it ended. */
  readonly completedAt: number
  readonly outcome: 'committed' | 'aborted' | 'unknown'
  readonly micro: readonly MicroOperation[]
  /** Of its commit, in a form that sorts as timestamps do. */
  readonly timestamp?: string
  /** A snapshot of several shards may show the past; a transaction may not. */
  readonly level?: 'transaction' | 'snapshot'
  /** Whom the client asked. */
  readonly node?: string
}

/** `key` is a list that only grows; a value is appended to it once in a whole history. */
export type MicroOperation =
  | { readonly kind: 'append'; readonly key: string; readonly value: number }
  | { readonly kind: 'read'; readonly key: string; readonly values: readonly number[] }

export interface Violation {
  /** The field's name of the anomaly, e.g. `G1a`. */
  readonly kind: string
  readonly explanation: string
  /** Indexes of the operations that show it. */
  readonly operations: readonly number[]
}

/** Reads count only of what committed. */
export const isSeen = ({ outcome }: Operation) => outcome === 'committed'
/** One value of one list. */
export const placeOf = (key: string, value: number) => `${key} ${value}`

export function appendsOf(micro: readonly MicroOperation[]) {
  return micro.flatMap((one) => (one.kind === 'append' ? [one] : []))
}

export function readsOf(micro: readonly MicroOperation[]) {
  return micro.flatMap((one) => (one.kind === 'read' ? [one] : []))
}
