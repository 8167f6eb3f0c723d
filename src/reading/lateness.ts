import type { FleetNode } from '../directory/topology.ts'
import type { Connection, ConnectionTarget } from '../postgres/connection.ts'
import type { ReadEnvironment } from './environment.ts'
import { openDeadlineMs } from './environment.ts'
import { freshness } from './read-store.ts'

/**
 * A lean flight that is late: either its statement takes long, or its node is lost, and only the node knows which. It is asked
 * over another connection, again and again while it answers and a statement may take. Where it does not answer in time, the
 * flight is broken off.
 */
export class Lateness {
  readonly #environment: ReadEnvironment
  readonly #target: ConnectionTarget
  readonly #connection: Connection
  readonly #withinMs: number
  #leftMs: number
  #timer: NodeJS.Timeout

  constructor(environment: ReadEnvironment, node: FleetNode, target: ConnectionTarget, connection: Connection) {
    this.#environment = environment
    this.#target = target
    this.#connection = connection
    this.#withinMs = openDeadlineMs(environment, node)
    this.#leftMs = environment.limits.statementWithinMs
    this.#timer = setTimeout(() => this.#ask(), this.#withinMs)
  }

  end(): void {
    clearTimeout(this.#timer)
    this.#leftMs = 0
  }

  #ask(): void {
    this.#leftMs -= this.#withinMs
    if (this.#leftMs <= 0) return this.#connection.destroy()
    const asked = (this.#timer = setTimeout(() => this.#connection.destroy(), this.#withinMs))
    this.#environment.pools.flight(this.#target, [freshness([])], this.#withinMs).then(
      ([outcome]) => {
        if (this.#timer !== asked || this.#leftMs <= 0 || outcome?.ok !== true) return
        clearTimeout(asked)
        this.#timer = setTimeout(() => this.#ask(), this.#withinMs)
      },
      () => undefined,
    )
  }
}
