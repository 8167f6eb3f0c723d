/** How long one read may wait for nodes to become fresh, over all shards that it touches and all nodes that it asks. */
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
