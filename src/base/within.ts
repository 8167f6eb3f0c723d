import type { Clock } from './clock.ts'

/** Whether a promise is fulfilled within that time; rejects as it does. Nothing is broken off: what comes later comes to nobody. */
export async function endsWithin(clock: Clock, promise: Promise<unknown>, withinMs: number): Promise<boolean> {
  const waiting = new AbortController()
  const late = clock.sleep(Math.max(0, withinMs), waiting.signal).then(
    () => false,
    () => true,
  )
  try {
    return await Promise.race([promise.then(() => true), late])
  } finally {
    waiting.abort()
  }
}
