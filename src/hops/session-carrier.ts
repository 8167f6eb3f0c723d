import { failureIn } from '../base/errors.ts'
import type { Carried, LossReason, OnLoss } from './hops.ts'
import { afterAnswer, endsSession, formatCarried, nothingCarried, parseCarried, together } from './hops.ts'

/**
 * What one user's request carries through one program, from its arrival to its answer: in a browser, for as long as the page
 * lives. Calls at the same time share it.
 */
export class SessionCarrier {
  readonly #onLoss: OnLoss
  readonly #onChange: (carried: Carried) => void
  #carried: Carried
  #answered = false

  constructor(options: {
    readonly carried?: Carried
    readonly onLoss?: OnLoss | undefined
    readonly onChange?: ((carried: Carried) => void) | undefined
  }) {
    this.#carried = options.carried ?? nothingCarried
    this.#onLoss = options.onLoss ?? (() => undefined)
    this.#onChange = options.onChange ?? (() => undefined)
  }

  get carried(): Carried {
    return this.#carried
  }

  /** To send, as a header or as the `session` of `fleet.transact` and `fleet.read`; undefined while nothing is known. */
  get session(): string | undefined {
    return formatCarried(this.#carried)
  }

  /**
   * Runs work in this program that takes a session and gives one, such as `fleet.transact` and `fleet.read`:
   *
   * ```ts
   * const outcome = await carrier.carry((session) => fleet.transact({ ...action, session }, run))
   * ```
   *
   * It throws what the work throws. Where that is a refusal of the tokens, such as `write_lost`, they are let go of (H5);
   * after any other error they stay.
   */
  async carry<T extends { readonly session: string }>(work: (session: string | undefined) => Promise<T>): Promise<T> {
    const sent = this.#carried
    const outcome = await work(formatCarried(sent)).catch((error: unknown) => {
      const code = failureIn(error)?.code
      if (code !== undefined && endsSession.has(code) && sent.length > 0) this.refused(sent, code)
      throw error
    })
    this.answered(sent, parseCarried(outcome.session))
    return outcome
  }

  /** An answer to a request that carried `sent`. */
  answered(sent: Carried, received: Carried): void {
    if (received.length === 0) return
    this.#become(afterAnswer(this.#carried, sent, received))
    if (this.#answered) this.lost('answer already sent', received, '')
  }

  /** Tokens that came on another way, such as another window of the same user. */
  include(tokens: Carried): void {
    this.#become(together([...this.#carried, ...tokens]))
  }

  /** H5: a gateway said that these tokens are of no use any more, and why. */
  refused(sent: Carried, code: string): void {
    this.lost('refused', sent, code)
    this.#become(afterAnswer(this.#carried, sent, nothingCarried))
  }

  /** Begins a new session, e.g. at a sign-out. What was carried is given up on purpose and not counted. */
  forget(): void {
    this.#become(nothingCarried)
  }

  /** The answer leaves: what is carried now is what the user is told. */
  takeForAnswer(): Carried {
    this.#answered = true
    return this.#carried
  }

  /** H4. */
  lost(reason: LossReason, tokens: Carried, detail: string): void {
    if (tokens.length > 0) this.#onLoss({ reason, tokens: tokens.length, detail })
  }

  #become(carried: Carried): void {
    this.#carried = carried
    this.#onChange(carried)
  }
}
