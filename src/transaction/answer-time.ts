/**
 * How long a server takes to answer at its fastest, of late: how much a link holds. No I/O, no time of its own.
 *
 * The least of all answers would only ever fall, and one route that was short for a moment would count for good. The least of
 * recent answers would grow without end where they queue: more would be sent, and queue longer. So every window one is sent
 * with nothing else on its way. What it takes counts from then on, and whatever is faster.
 */
export class AnswerTime {
  readonly #windowMs: number
  #measuredAtMs = Number.NEGATIVE_INFINITY
  #fastestMs = 0

  constructor(windowMs: number) {
    this.#windowMs = windowMs
  }

  /** 0 until the first answer. */
  get fastestMs(): number {
    return this.#fastestMs
  }

  /** What is sent next is to be sent alone. */
  isDue(nowMs: number): boolean {
    return nowMs - this.#measuredAtMs >= this.#windowMs
  }

  /** Of what is sent now; true when it begins a window. */
  sent(nowMs: number, isAlone: boolean): boolean {
    const begins = isAlone && this.isDue(nowMs)
    if (begins) this.#measuredAtMs = nowMs
    return begins
  }

  answered(tookMs: number, begins: boolean): void {
    this.#fastestMs = begins ? tookMs : Math.min(this.#fastestMs, tookMs)
  }
}
