import type { Clock } from '../base/clock.ts'

/**
 * One direction of one connection: what goes in comes out after the delay, whole and in order. Who takes it out
 * may ask to wait, and a line can be held: then nothing comes out until it is released.
 */
export class DelayLine<Item> {
  readonly #delayMs: number
  readonly #clock: Clock
  readonly #take: (item: Item) => 'more' | 'wait'
  readonly #closing = new AbortController()
  #first: Queued<Item> | undefined
  #last: Queued<Item> | undefined
  #held: boolean
  #waiting = false
  #sleeping = false

  constructor(options: {
    readonly delayMs: number
    readonly clock: Clock
    readonly held: boolean
    /** Takes the next item out; after `wait` nothing more comes until `resume`. */
    readonly take: (item: Item) => 'more' | 'wait'
  }) {
    this.#delayMs = options.delayMs
    this.#clock = options.clock
    this.#held = options.held
    this.#take = options.take
  }

  put(item: Item): void {
    if (this.#closing.signal.aborted) return
    const queued: Queued<Item> = { item, dueMs: this.#clock.monotonicMs() + this.#delayMs, next: undefined }
    if (this.#last === undefined) this.#first = queued
    else this.#last.next = queued
    this.#last = queued
    this.#flow()
  }

  resume(): void {
    this.#waiting = false
    this.#flow()
  }

  hold(): void {
    this.#held = true
  }

  release(): void {
    this.#held = false
    this.#flow()
  }

  /** Drops what is in it. */
  close(): void {
    this.#first = undefined
    this.#last = undefined
    this.#closing.abort()
  }

  #flow(): void {
    while (this.#first !== undefined && !this.#held && !this.#waiting && !this.#sleeping) {
      const leftMs = this.#first.dueMs - this.#clock.monotonicMs()
      if (leftMs > 0) {
        this.#sleep(leftMs)
        return
      }
      const { item, next } = this.#first
      this.#first = next
      if (next === undefined) this.#last = undefined
      if (this.#take(item) === 'wait') this.#waiting = true
    }
  }

  #sleep(ms: number): void {
    this.#sleeping = true
    const wake = () => {
      this.#sleeping = false
      this.#flow()
    }
    // A sleep ends early only when the line was closed; there is nothing left to flow then.
    this.#clock.sleep(ms, this.#closing.signal).then(wake, wake)
  }
}

interface Queued<Item> {
  readonly item: Item
  readonly dueMs: number
  next: Queued<Item> | undefined
}
