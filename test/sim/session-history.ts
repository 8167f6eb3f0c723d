/**
 * Registers that only grow, each written by one client alone, which never writes a value twice. Sessions are told apart by
 * their tokens, which are numbers here: a call carries one, or several that are joined, and its answer gives a new one.
 * Whoever carries a token of another client goes on where that one was.
 *
 * Writes stand where they were called, reads where they were answered: whoever was shown a value stands behind its write.
 */
export interface SessionHistory {
  readonly operations: readonly SessionOperation[]
}

export type SessionOperation = SessionWrite | SessionRead | ToldLost

export interface SessionWrite {
  readonly kind: 'write'
  readonly client: number
  readonly carried: readonly number[]
  /** Of one shard, or of several in one transaction: `shard/client`. */
  readonly registers: readonly string[]
  readonly value: number
  told?: 'committed' | 'failed' | 'unknown'
  /** What the answer gave; left out where there was none. */
  given?: number
  /** Of the commit, in a form that sorts as timestamps do. */
  timestamp?: string
  /** When it was acknowledged: calls and acknowledgements are counted in their order. */
  answeredAt?: number
}

export type SessionLevel = 'session' | 'causal' | 'primary' | 'strong' | 'stale' | 'snapshot'

export interface SessionRead {
  readonly kind: 'read'
  readonly client: number
  readonly carried: readonly number[]
  readonly given: number
  readonly level: SessionLevel
  /** The value of each register that was asked for; 0 where it had none. */
  readonly shown: Readonly<Record<string, number>>
  /** When it was called, by the same count. */
  readonly calledAt: number
  /** Of a `stale` read: what has no later timestamp may not be missing. Left out where no clock could tell. */
  readonly closedAtLeast?: string
  /** Whom it asked, and who answered. */
  readonly gateway: string
  readonly nodes: readonly string[]
}

/** A write that was acknowledged, and that its session was told is lost. */
export interface ToldLost {
  readonly kind: 'told lost'
  readonly client: number
  readonly why: string
}
