import type { Hlc } from '../hlc/hlc.ts'
import type { Lsn } from '../postgres/lsn.ts'

/**
 * The closings of a shard that have begun and are not published, oldest first. No I/O, no time.
 *
 * A closing waits for the transactions that were in progress when it began, and for those alone. With a branch always in
 * doubt, one closing at a time would begin its next only when the last was published, and trail by two waits. So one
 * begins at every beat, and each is published when its own wait is over.
 */
export interface BegunClosing {
  /** `T`: whoever draws after it was read draws above it. */
  readonly timestamp: Hlc
  /** `X`, drawn after `T` was read. */
  readonly own: bigint
  /** At or behind what raised the floor to `T`. */
  readonly position: Lsn
  readonly begunMs: number
}

/** Past this every second one is forgotten: what is held back for long needs no fine steps. A third of a second of beats. */
export const closingsMax = 64

export function addClosing(begun: readonly BegunClosing[], closing: BegunClosing): readonly BegunClosing[] {
  const last = begun.at(-1)
  // The same timestamp with an older xid is published sooner.
  if (last !== undefined && closing.timestamp <= last.timestamp) return begun
  const all = [...begun, closing]
  return all.length > closingsMax ? all.filter((_, index) => index % 2 === 0) : all
}

export function withoutPublished(begun: readonly BegunClosing[], closed: Hlc): readonly BegunClosing[] {
  return begun.filter(({ timestamp }) => timestamp > closed)
}

export interface KeeperPace {
  /** Between beats while somebody waits for the clock. */
  readonly activeMs: number
  /** What a closed timestamp may trail by while nobody waits for it: what its closing waits, and the pause between beats. */
  readonly trailMs: number
  /** The longest pause between looks while a closing waits on a shard that is not. */
  readonly quietMs: number
  /** How long after its last use a shard counts as used. */
  readonly activeForMs: number
  readonly heartbeatMs: number
}

/** `close` begins a closing and publishes what may be, `advance` publishes only. */
export type NextBeat = 'close' | 'advance' | 'sleep'

export interface KeeperIdleness {
  readonly sinceUsedMs: number
  readonly sinceBegunMs: number
  readonly isWaiting: boolean
}

export function nextBeat({ sinceUsedMs, sinceBegunMs, isWaiting }: KeeperIdleness, pace: KeeperPace): NextBeat {
  if (sinceUsedMs < pace.activeForMs || sinceBegunMs >= pace.heartbeatMs) return 'close'
  return isWaiting ? 'advance' : 'sleep'
}

export interface KeeperHurry {
  readonly isAsked: boolean
  /** How long the oldest closing has been waiting. */
  readonly waitedMs: number
}

/**
 * A beat costs processor time and a flush, on a shard of few commits as on one of many: it comes as late as may be. What has
 * waited for long on a shard that is not used is looked at less often; what that adds stays a small part of the wait.
 */
export function pauseMs(next: 'close' | 'advance', { isAsked, waitedMs }: KeeperHurry, pace: KeeperPace): number {
  if (next === 'advance') return Math.max(pace.activeMs, Math.min(waitedMs / 8, pace.quietMs))
  return isAsked ? pace.activeMs : Math.max(pace.activeMs, pace.trailMs - waitedMs)
}
