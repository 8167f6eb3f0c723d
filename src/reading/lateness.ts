import type { FleetNode } from '../directory/topology.ts'
import type { Connection } from '../postgres/connection.ts'
import type { Statement, StatementOutcome } from '../postgres/statement.ts'
import type { ReadEnvironment } from './environment.ts'

/**
 * A flight with a statement of the caller. One that is late either takes long, or its node is lost, and only the node knows
 * which. It is looked at over another connection, again and again while it answers and a statement may take. Where it is
 * lost the flight is broken off.
 *
 * Rejects with `ConnectionLost`, late when the statement took all the time that it may, or with a `TypeError` for what cannot
 * be sent.
 */
export async function flightOfStatement(
  environment: ReadEnvironment,
  node: FleetNode,
  connection: Connection,
  statements: readonly Statement[],
): Promise<StatementOutcome[]> {
  const lateness = new Lateness(environment, node, connection)
  try {
    return await connection.flight(statements)
  } finally {
    lateness.end()
  }
}

/** Beyond its distance, a statement that takes longer has its node looked at: one small query, shared by all that are late there. */
const lookEveryMs = 200

class Lateness {
  readonly #environment: ReadEnvironment
  readonly #node: FleetNode
  readonly #connection: Connection
  readonly #everyMs: number
  readonly #deadlineMs: number
  #timer: NodeJS.Timeout
  #ended = false

  constructor(environment: ReadEnvironment, node: FleetNode, connection: Connection) {
    const { limits, clock, distanceMs, region } = environment
    this.#environment = environment
    this.#node = node
    this.#connection = connection
    this.#everyMs = lookEveryMs + distanceMs(region, node.region)
    this.#deadlineMs = clock.monotonicMs() + limits.statementWithinMs
    this.#timer = setTimeout(() => void this.#look(), Math.min(this.#everyMs, limits.statementWithinMs))
  }

  end(): void {
    this.#ended = true
    clearTimeout(this.#timer)
  }

  async #look(): Promise<void> {
    const { limits, watch, clock } = this.#environment
    if (clock.monotonicMs() >= this.#deadlineMs) return this.#connection.giveUp(limits.statementWithinMs)
    const seen = await watch.look(this.#node)
    if (this.#ended) return
    if (seen === 'lost') return this.#connection.destroy()
    const leftMs = Math.max(0, this.#deadlineMs - clock.monotonicMs())
    this.#timer = setTimeout(() => void this.#look(), Math.min(this.#everyMs, leftMs))
  }
}
