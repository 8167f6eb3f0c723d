/** When a delivery that failed is tried again. Pure: the time comes from outside. */
export interface Attempt {
  /** How many attempts failed in a row. */
  readonly failures: number
  /** Monotonic milliseconds before which it is not tried again. */
  readonly notBeforeMs: number
  /** Nobody answered, as against an answer that was no. */
  readonly unreachable: boolean
}

const backoffMsMin = 100
/** A receiver that comes back waits no longer than this for what it missed. */
const backoffMsMax = 30_000

export function backoffMs(failures: number): number {
  return Math.min(backoffMsMax, backoffMsMin * 2 ** Math.min(failures - 1, 16))
}

export function afterAttempt(before: Attempt | undefined, outcome: 'refused' | 'unreachable', nowMs: number): Attempt {
  const failures = (before?.failures ?? 0) + 1
  return { failures, notBeforeMs: nowMs + backoffMs(failures), unreachable: outcome === 'unreachable' }
}

export function isDue(attempt: Attempt | undefined, nowMs: number): boolean {
  return attempt === undefined || attempt.notBeforeMs <= nowMs
}
