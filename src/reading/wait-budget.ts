/** How long one read may wait, for nodes and for connections: over all shards that it touches, nodes that it asks and runs. */
export class WaitBudget {
  #leftMs: number

  constructor(ms: number) {
    this.#leftMs = ms
  }

  get leftMs(): number {
    return Math.max(0, this.#leftMs)
  }

  spend(ms: number): void {
    this.#leftMs -= ms
  }
}
