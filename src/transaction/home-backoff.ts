import type { ShardName } from '../directory/topology.ts'

/**
 * When a home that did not answer is asked again: after a pause that doubles with every failure, up to a bound, and ends
 * with its first answer. Half of each pause is left to chance, so that the resolvers of many shards do not come back to a
 * home together. No I/O, no time.
 */
export type HomeBackoff = ReadonlyMap<ShardName, { readonly failures: number; readonly untilMs: number }>

export interface BackoffLimits {
  readonly firstMs: number
  readonly mostMs: number
}

/** How long until a home may be asked; 0 when it may be now. */
export function pauseBeforeMs(backoff: HomeBackoff, home: ShardName, nowMs: number): number {
  return Math.max(0, (backoff.get(home)?.untilMs ?? nowMs) - nowMs)
}

export function afterAnswer(backoff: HomeBackoff, home: ShardName): HomeBackoff {
  if (!backoff.has(home)) return backoff
  return new Map([...backoff].filter(([name]) => name !== home))
}

/** `chance` in [0, 1). */
export function afterSilence(
  backoff: HomeBackoff,
  home: ShardName,
  nowMs: number,
  chance: number,
  limits: BackoffLimits,
): HomeBackoff {
  const before = backoff.get(home)?.failures ?? 0
  const pauseMs = Math.min(limits.mostMs, limits.firstMs * 2 ** before)
  const untilMs = nowMs + pauseMs / 2 + (pauseMs / 2) * chance
  return new Map(backoff).set(home, { failures: before + 1, untilMs })
}
