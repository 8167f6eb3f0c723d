/**
 * Time enters the system here and nowhere else: everything below a shell takes `now` as data.
 * `test/repository.test.ts` holds every other file to that.
 */
export interface Clock {
  /** Milliseconds since the Unix epoch, UTC. May jump in both directions. */
  wallMs(): number
  /** Milliseconds from an arbitrary start; never goes back. For durations and deadlines. */
  monotonicMs(): number
  /** Resolves after `ms`; rejects with the signal's reason when it is aborted first. */
  sleep(ms: number, signal?: AbortSignal): Promise<void>
}

export const systemClock: Clock = {
  wallMs: () => Date.now(),
  monotonicMs: () => performance.now(),
  sleep: (ms, signal) =>
    new Promise((resolve, reject) => {
      if (signal?.aborted) {
        reject(signal.reason)
        return
      }
      const stop = () => {
        clearTimeout(timer)
        reject(signal?.reason)
      }
      const timer = setTimeout(() => {
        signal?.removeEventListener('abort', stop)
        resolve()
      }, ms)
      signal?.addEventListener('abort', stop, { once: true })
    }),
}

/** ISO 8601 in UTC of a wall time, e.g. `2026-04-02T10:00:05.120Z`. */
export function formatWallMs(wallMs: number): string {
  return new Date(wallMs).toISOString()
}
