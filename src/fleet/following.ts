import type { Lsn } from '../postgres/lsn.ts'

/**
 * Whether a follower follows, from looks at it. The simple way, to give up whoever does not stream for a while, throws away a
 * follower that replays much, one whose replay somebody holds, and one that a link keeps from its primary: each would come
 * back by itself, and needs nothing but time.
 *
 * So what counts is evidence. A slot that its primary has invalidated is enough: what the follower lacks is gone. Else it has
 * to be seen, for as long as `stalledForMs`, asking its primary and getting nothing: its replay at one position, in the pause
 * that it enters with every source of log exhausted, while a connection such as its own reaches the primary.
 */
export interface Sight {
  /** Its primary streams to it. */
  readonly isStreaming: boolean
  /** Its primary has invalidated its slot. */
  readonly isSlotLost: boolean
  /** What it says of its replay; null when it does not answer. */
  readonly replay: { readonly position: Lsn; readonly isExhausted: boolean } | null
  /** A connection reaches its primary the way that its own go. */
  readonly isLinked: boolean
}

/** Asking its primary and getting nothing. */
export interface Stall {
  readonly position: Lsn
  readonly sinceMs: number
}

export type Following =
  | { readonly kind: 'follows' }
  /** Nothing can be concluded, and nothing is remembered. */
  | { readonly kind: 'unknown' }
  | { readonly kind: 'stalled'; readonly stall: Stall }
  | { readonly kind: 'lost'; readonly why: string }

/** Many attempts of the follower, which makes one every fifth of a second. */
export const stalledForMs = 60_000

export function judgeFollowing(sight: Sight, before: Stall | undefined, nowMs: number): Following {
  if (sight.isStreaming) return { kind: 'follows' }
  if (sight.isSlotLost) return { kind: 'lost', why: 'its primary no longer keeps the log that it lacks' }
  if (sight.replay === null || !sight.isLinked) return { kind: 'unknown' }
  const { position, isExhausted } = sight.replay
  if (before?.position !== position) {
    return isExhausted ? { kind: 'stalled', stall: { position, sinceMs: nowMs } } : { kind: 'unknown' }
  }
  // In the middle of an attempt, or held by somebody since.
  if (!isExhausted || nowMs - before.sinceMs < stalledForMs) return { kind: 'stalled', stall: before }
  return { kind: 'lost', why: `its primary answers, and has streamed nothing to it for ${stalledForMs} ms` }
}
