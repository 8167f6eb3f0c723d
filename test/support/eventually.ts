import { systemClock } from '../../src/base/clock.ts'

/** Waits until a condition holds. The deadline only ends a test that has failed; it decides nothing else. */
export async function eventually(holds: () => boolean | Promise<boolean>, withinMs = 30_000): Promise<void> {
  const deadline = systemClock.monotonicMs() + withinMs
  while (!(await holds())) {
    if (systemClock.monotonicMs() > deadline)
      throw new Error(`did not come true within ${withinMs} ms: ${String(holds)}`)
    await systemClock.sleep(5)
  }
}
