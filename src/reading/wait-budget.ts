import { HoldfastError } from '../base/errors.ts'
import type { Frontier } from '../session/frontier.ts'
import type { ReadEnvironment } from './environment.ts'
import type { ReadLevel } from './reading.ts'

/** How long one read may wait, for nodes and for connections: over all shards that it touches, nodes that it asks and runs. */
export class WaitBudget {
  #leftMs: number

  constructor(ms: number) {
    this.#leftMs = ms
  }

  get leftMs(): number {
    return Math.max(0, this.#leftMs)
  }

  spend(ms: number): void {
    this.#leftMs -= ms
  }
}

/** What a read says of its waiting, and what sizes its budget when it says nothing. */
export interface Waiting {
  readonly waitMs?: number | undefined
  readonly level?: ReadLevel | undefined
  readonly frontier?: Frontier | undefined
}

/** Timers take what is beyond 24 days for no time at all, and whoever asks is gone long before. */
export const waitMsMax = 60_000

/** Throws `argument_invalid`. */
export function requireWait({ waitMs }: Waiting): void {
  const isKnown = waitMs === undefined || (typeof waitMs === 'number' && waitMs >= 0 && waitMs <= waitMsMax)
  if (isKnown) return
  throw new HoldfastError('argument_invalid', `waitMs is a number of milliseconds, 0 to ${waitMsMax}`)
}

/**
 * Of a `causal` read closed time trails by a round trip while global commits are in flight. A branch that the session knows as
 * pending, or that is decided on the shard of a `strong` one, is found at its shard, asked for at its home, which passes a barrier, and settled: four round trips, and on both
 * sides a wait for followers.
 */
export function waitMsOf(
  { limits, topology, distanceMs }: Pick<ReadEnvironment, 'limits' | 'topology' | 'distanceMs'>,
  { waitMs, level, frontier }: Waiting,
): number {
  if (waitMs !== undefined) return waitMs
  const isStrong = level === 'strong'
  const leastMs = isStrong ? limits.strongWaitMs : limits.waitMs
  const roundTrips = isStrong || hasPending(frontier) ? 5 : level === 'causal' ? 2 : 0
  if (roundTrips === 0) return leastMs
  const regions = [...topology.current().regions.keys()]
  const longest = Math.max(0, ...regions.flatMap((from) => regions.map((to) => distanceMs(from, to))))
  return Math.max(leastMs, roundTrips * longest)
}

function hasPending(frontier: Frontier | undefined): boolean {
  for (const { histories } of frontier?.shards.values() ?? []) {
    if (histories.some(({ pending, pendingForgotten }) => pending.length > 0 || pendingForgotten)) return true
  }
  return false
}
