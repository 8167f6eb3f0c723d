/** What was begun and may not be left behind. */
export class Underway {
  readonly #begun = new Set<Promise<unknown>>()

  /** Gives the promise back, whose end `ended` waits for. */
  begin<T>(promise: Promise<T>): Promise<T> {
    const forget = () => this.#begun.delete(promise)
    this.#begun.add(promise)
    promise.then(forget, forget)
    return promise
  }

  /** Resolves when all have ended in some way, also those that were begun meanwhile. */
  async ended(): Promise<void> {
    while (this.#begun.size > 0) await Promise.allSettled(this.#begun)
  }
}
