import type { Clock } from '../../src/base/clock.ts'

/** A clock that stands still until a test moves it. */
export class ManualClock implements Clock {
  #nowMs = 1_000_000
  #sleepers: { readonly dueMs: number; readonly wake: () => void }[] = []

  wallMs(): number {
    return this.#nowMs
  }

  monotonicMs(): number {
    return this.#nowMs
  }

  get sleeping(): number {
    return this.#sleepers.length
  }

  sleep(ms: number, signal?: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      const sleeper = { dueMs: this.#nowMs + ms, wake: resolve }
      this.#sleepers.push(sleeper)
      signal?.addEventListener('abort', () => {
        this.#sleepers = this.#sleepers.filter((other) => other !== sleeper)
        reject(signal.reason)
      })
    })
  }

  /** Moves the clock and lets those who are woken run, until nobody who is due still sleeps. */
  async advance(ms: number): Promise<void> {
    this.#nowMs += ms
    for (;;) {
      const due = this.#sleepers.filter((sleeper) => sleeper.dueMs <= this.#nowMs)
      if (due.length === 0) return
      this.#sleepers = this.#sleepers.filter((sleeper) => sleeper.dueMs > this.#nowMs)
      for (const sleeper of due) sleeper.wake()
      await new Promise((resolve) => setImmediate(resolve))
    }
  }
}
