import type { Clock } from '../base/clock.ts'

const pauseMsMin = 50
const pauseMsMax = 2_000

/**
 * Makes attempts until the signal is aborted. An attempt that fails is made again after a pause that doubles with each
 * failure in a row; one that held for longer than the longest pause begins a new row.
 */
export async function untilAborted(
  signal: AbortSignal,
  clock: Clock,
  attempt: () => Promise<void>,
  onFailure: (error: unknown) => void,
): Promise<void> {
  let pauseMs = pauseMsMin
  while (!signal.aborted) {
    const startedMs = clock.monotonicMs()
    try {
      await attempt()
    } catch (error) {
      if (signal.aborted) return
      onFailure(error)
    }
    if (clock.monotonicMs() - startedMs > pauseMsMax) pauseMs = pauseMsMin
    await clock.sleep(pauseMs, signal).catch(() => undefined)
    pauseMs = Math.min(pauseMsMax, pauseMs * 2)
  }
}
