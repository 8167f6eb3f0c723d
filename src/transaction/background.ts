/** Hears of a defect: work handles what can fail outside of this process by itself. */
export type OnBackgroundFailure = (error: unknown) => void

/**
 * Work that goes on after its caller was answered: settlements, journal entries. None of it carries a promise that
 * is not kept elsewhere too (the resolver settles what is left), so a failure is told and not raised: a rejection that
 * nobody handles would end the process, and every request in it.
 */
export class Background {
  readonly #running = new Set<Promise<void>>()
  readonly #onFailure: OnBackgroundFailure

  constructor(onFailure: OnBackgroundFailure) {
    this.#onFailure = onFailure
  }

  run(work: () => Promise<void>): void {
    const running = this.#attempt(work).finally(() => this.#running.delete(running))
    this.#running.add(running)
  }

  /** The same, once what goes on at this moment has been sent: a caller is answered first. */
  runNext(work: () => Promise<void>): void {
    this.run(async () => {
      await new Promise<void>((resolve) => void setImmediate(resolve))
      await work()
    })
  }

  /** Resolves when nothing runs any more; what is started meanwhile is waited for too. */
  async drain(): Promise<void> {
    while (this.#running.size > 0) await Promise.allSettled(this.#running)
  }

  async #attempt(work: () => Promise<void>): Promise<void> {
    try {
      await work()
    } catch (error) {
      this.#onFailure(error)
    }
  }
}
