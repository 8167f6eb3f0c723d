/** Runs one change at a time, in the order in which they come; a failed one does not keep the next from running. */
export class Lane {
  #last: Promise<unknown> = Promise.resolve()

  run<T>(change: () => Promise<T>): Promise<T> {
    const result = this.#last.then(change)
    this.#last = result.catch(() => undefined)
    return result
  }

  /** Resolves when everything that has come so far has ended. */
  async ended(): Promise<void> {
    await this.#last
  }
}
