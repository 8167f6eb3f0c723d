/**
 * How long a server takes to answer at its fastest, of late: how much a link holds. No I/O, no time of its own.
 *
 * The least of all answers would only ever fall, and one route that was short for a moment would count for good. The least of
 * recent answers would grow without end where they queue: more would be sent, and queue longer. So where more would be sent than
 * the link seems to hold, one is sent with nothing else on its way, once a window. What it takes counts from then on, and
 * whatever is faster. It costs the others two round trips, so nobody pays for it who keeps within the link.
 */
/** What an answer takes that is not the fastest and did not queue. */
const usual = 1.25

export class AnswerTime {
  readonly #windowMs: number
  #measuredAtMs = Number.NEGATIVE_INFINITY
  #fastestMs = 0
  #isMeasuring = false

  constructor(windowMs: number) {
    this.#windowMs = windowMs
  }

  /** 0 until the first answer. */
  get fastestMs(): number {
    return this.#fastestMs
  }

  /** How many may be on their way, of which one is sent every `everyMs`; 0 while the next is to be sent alone. */
  underwayMax(nowMs: number, underway: number, everyMs: number): number {
    const held = Math.ceil((this.#fastestMs * usual) / everyMs)
    this.#isMeasuring = this.isDue(nowMs) && (this.#isMeasuring || underway > held)
    return this.#isMeasuring ? 0 : held
  }

  /** One that is sent alone now is measured. */
  isDue(nowMs: number): boolean {
    return nowMs - this.#measuredAtMs >= this.#windowMs
  }

  /** Of what is sent now; true when it begins a window. */
  sent(nowMs: number, isAlone: boolean): boolean {
    const begins = isAlone && this.isDue(nowMs)
    if (begins) {
      this.#measuredAtMs = nowMs
      this.#isMeasuring = false
    }
    return begins
  }

  answered(tookMs: number, begins: boolean): void {
    this.#fastestMs = begins ? tookMs : Math.min(this.#fastestMs, tookMs)
  }
}
