import type { HoldfastError } from '../base/errors.ts'

/**
 * What an attempt was refused before it was sent (A3): the first dooms it, until its decision is sent. What is refused behind that
 * changes nothing and is told, since whoever left it behind awaits nothing and believes that it was done.
 */
export class Refusals {
  readonly #tellTooLate: (refusal: HoldfastError) => void
  #first: HoldfastError | undefined
  #isDecided = false

  constructor(tellTooLate: (refusal: HoldfastError) => void) {
    this.#tellTooLate = tellTooLate
  }

  get first(): HoldfastError | undefined {
    return this.#first
  }

  note(refusal: HoldfastError): void {
    this.#first ??= refusal
    if (this.#isDecided) this.#tellTooLate(refusal)
  }

  /** Asked when the decision is about to be sent: it is, unless there is one. */
  decide(): HoldfastError | undefined {
    this.#isDecided = this.#first === undefined
    return this.#first
  }
}
