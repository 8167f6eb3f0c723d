import { present } from '../base/assert.ts'
import type { FleetNode } from '../directory/topology.ts'
import type { Connection } from '../postgres/connection.ts'
import type { Statement, StatementOutcome } from '../postgres/statement.ts'
import { readHasEnded } from './caller-statement.ts'
import type { ReadEnvironment } from './environment.ts'
import { flightOfStatement } from './lateness.ts'
import * as store from './read-store.ts'

/** What runs inside a snapshot. The caller's first statement takes the role that is bound, where that is to be taken yet. */
export class CallerStatements {
  readonly #environment: ReadEnvironment
  readonly #node: FleetNode
  readonly #connection: Connection
  #takesRole: boolean
  #ended = false

  constructor(environment: ReadEnvironment, node: FleetNode, connection: Connection, takesRole: boolean) {
    this.#environment = environment
    this.#node = node
    this.#connection = connection
    this.#takesRole = takesRole
  }

  get session(): object {
    return this.#connection.session
  }

  /** Throws `argument_invalid` behind the end: it would run bound to nobody, as the gateway. */
  async send(statement: Statement): Promise<StatementOutcome> {
    if (this.#ended) throw readHasEnded()
    const head = this.#takesRole ? [store.becomeBound] : []
    const outcomes = await flightOfStatement(this.#environment, this.#node, this.#connection, [...head, statement])
    if (head.length > 0) store.requireTag(outcomes[0], 'SET')
    this.#takesRole = false
    return present(outcomes.at(-1), 'one outcome a statement')
  }

  async sendAsGateway(statement: Statement, withinMs: number): Promise<StatementOutcome> {
    if (this.#ended) throw readHasEnded()
    const [outcome] = await this.#connection.flight([statement], withinMs)
    return present(outcome, 'one outcome a statement')
  }

  /** Of a transaction whose end was sent with its only statement, and passed, nothing is left to end. */
  end(withinMs: number): void {
    if (this.#ended) return
    this.#ended = true
    const release = () => this.#connection.release()
    if (this.#connection.status === 'idle') release()
    else this.#connection.flight([store.commit, store.becomeGateway], withinMs).then(release, release)
  }
}
