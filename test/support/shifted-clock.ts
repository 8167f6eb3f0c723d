import type { Clock } from '../../src/base/clock.ts'
import { systemClock } from '../../src/base/clock.ts'

/** The clock of a machine whose wall time jumps; how long things take is not its matter. */
export class ShiftedClock implements Clock {
  #shiftMs = 0
  #jumps = 0

  get shiftMs(): number {
    return this.#shiftMs
  }

  set shiftMs(ms: number) {
    if (ms !== this.#shiftMs) this.#jumps += 1
    this.#shiftMs = ms
  }

  /** How often it has jumped. */
  jumps(): number {
    return this.#jumps
  }

  wallMs(): number {
    return systemClock.wallMs() + this.shiftMs
  }

  monotonicMs(): number {
    return systemClock.monotonicMs()
  }

  sleep(ms: number, signal?: AbortSignal): Promise<void> {
    return systemClock.sleep(ms, signal)
  }
}
