import type { Clock } from '../base/clock.ts'
import { HoldfastError } from '../base/errors.ts'
import type { Frontier } from '../session/frontier.ts'
import type { ReadEnvironment } from './environment.ts'
import type { ReadLevel } from './reading.ts'

interface Span {
  readonly fromMs: number
  readonly untilMs: number
}

/**
 * How long one read may wait, for nodes and for connections: over all shards that it touches, nodes that it asks and runs. Waits of
 * several shards at once pass together, so the time in which any of them waits is spent once; a wait that goes on is spent as it goes.
 */
export class WaitBudget {
  readonly #ms: number
  readonly #clock: Clock
  #spent: readonly Span[] = []
  readonly #running = new Set<{ readonly fromMs: number }>()

  constructor(ms: number, clock: Clock) {
    this.#ms = ms
    this.#clock = clock
  }

  get leftMs(): number {
    const untilMs = this.#clock.monotonicMs()
    const running = [...this.#running].map(({ fromMs }) => ({ fromMs, untilMs }))
    return Math.max(0, this.#ms - lengthMs(union([...this.#spent, ...running])))
  }

  /** A wait begins. Gives its end, which tells how long it was. */
  begin(): () => number {
    const wait = { fromMs: this.#clock.monotonicMs() }
    this.#running.add(wait)
    return () => {
      const ms = this.#clock.monotonicMs() - wait.fromMs
      if (this.#running.delete(wait)) this.spend(ms, wait.fromMs)
      return ms
    }
  }

  /** A wait that was one only in hindsight. */
  spend(ms: number, fromMs: number): void {
    if (ms > 0) this.#spent = union([...this.#spent, { fromMs, untilMs: fromMs + ms }])
  }
}

/** The same time in spans that do not overlap. */
function union(spans: readonly Span[]): Span[] {
  const apart: Span[] = []
  for (const span of spans.toSorted((a, b) => a.fromMs - b.fromMs)) {
    const last = apart.at(-1)
    if (last === undefined || span.fromMs > last.untilMs) apart.push(span)
    else apart[apart.length - 1] = { fromMs: last.fromMs, untilMs: Math.max(last.untilMs, span.untilMs) }
  }
  return apart
}

function lengthMs(spans: readonly Span[]): number {
  return spans.reduce((sum, { fromMs, untilMs }) => sum + untilMs - fromMs, 0)
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
