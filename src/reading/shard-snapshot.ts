import { assert, present } from '../base/assert.ts'
import type { FleetNode, ShardName, TenantName } from '../directory/topology.ts'
import type {
  Connection,
  ConnectionTarget,
  Statement,
  StatementOutcome,
  StatementResult,
} from '../postgres/connection.ts'
import { accepted, ConnectionLost, ServerError } from '../postgres/connection.ts'
import type { Lsn } from '../postgres/lsn.ts'
import type { LsnAfterSnapshot, LsnBeforeSnapshot } from '../session/session.ts'
import { lsnAfterSnapshot, lsnBeforeSnapshot } from '../session/session.ts'
import type { ReadEnvironment } from './environment.ts'
import { openDeadlineMs } from './environment.ts'
import { isNodeFailure, NodeLost } from './read-failure.ts'
import type { ProofQuestion, ProofRow } from './read-store.ts'
import * as store from './read-store.ts'

/**
 * One snapshot of one node: a REPEATABLE READ transaction, what is needed to judge it, and the statements that it answers.
 *
 * It is opened in one flight, with the caller's first statement behind it. The order of that flight is the argument:
 * the position is read before the statement that takes the snapshot (HZ-T1), everything else inside it.
 *
 * The application's role is taken for the session, not for the transaction: should BEGIN fail, the statement behind it
 * runs as the application, unbound, and not as the gateway.
 */
export interface SnapshotRequest {
  readonly node: FleetNode
  readonly target: ConnectionTarget
  /** Null for an operator's read: no tenant binds it, and it runs as the role of the target. */
  readonly tenant: TenantName | null
  readonly question: Omit<ProofQuestion, 'tenant'>
}

export interface OpenedSnapshot {
  readonly snapshot: ShardSnapshot
  /** The outcome of the caller's first statement; worth something only when the snapshot is proven. */
  readonly answer: Promise<StatementOutcome> | undefined
}

/** Places in the opening flight. */
const positionAt = 0
const beginAt = 1
const snapshotAt = 2
const proofAt = 3

export class ShardSnapshot {
  readonly node: FleetNode
  readonly proof: ProofRow
  /** What the node had applied before the snapshot was taken. */
  readonly positionBefore: LsnBeforeSnapshot
  /** What the snapshot shows was committed at or before this. */
  readonly positionAfter: LsnAfterSnapshot
  readonly #environment: ReadEnvironment
  readonly #caller: CallerStatements

  private constructor(
    environment: ReadEnvironment,
    caller: CallerStatements,
    node: FleetNode,
    { proof, position }: Opening,
  ) {
    this.node = node
    this.proof = proof
    this.positionBefore = lsnBeforeSnapshot({ lsn: position, readAt: positionAt, snapshotAt })
    this.positionAfter = lsnAfterSnapshot({ lsn: proof.positionAfter, readAt: proofAt, snapshotAt })
    this.#environment = environment
    this.#caller = caller
  }

  /** Rejects with `NodeLost` when the node does not give a snapshot in time. */
  static async open(
    environment: ReadEnvironment,
    request: SnapshotRequest,
    first: Statement | undefined,
  ): Promise<OpenedSnapshot> {
    const { node, target, tenant } = request
    const withinMs = openDeadlineMs(environment, node)
    let connection: Connection | undefined
    try {
      connection = await environment.pools.reserve(target, withinMs)
      const opening = connection.flight(openingStatements(request), withinMs)
      const caller = new CallerStatements(connection, tenant !== null, environment.limits.statementWithinMs)
      const answer = first === undefined ? undefined : caller.send(first)
      answer?.catch(() => undefined)
      const snapshot = new ShardSnapshot(environment, caller, node, readOpening(await opening, node.shard))
      const { proof, positionBefore: replayed } = snapshot
      environment.watch.noteFresh(node.id, { ...proof, replayed })
      return { snapshot, answer }
    } catch (error) {
      connection?.destroy()
      if (!(error instanceof ConnectionLost || error instanceof ServerError)) throw error
      environment.watch.noteLost(node.id)
      throw new NodeLost(node, error)
    }
  }

  /** Rejects with `ServerError`, `NodeLost`, or a `TypeError` for what cannot be sent. */
  query(statement: Statement): Promise<StatementResult> {
    return this.accept(this.#caller.send(statement))
  }

  /** The result of an outcome that is on its way, in the terms of `query`. */
  async accept(answer: Promise<StatementOutcome>): Promise<StatementResult> {
    try {
      return accepted(await answer)
    } catch (error) {
      if (!isNodeFailure(error)) throw error
      this.#environment.watch.noteLost(this.node.id)
      throw new NodeLost(this.node, error)
    }
  }

  /** A statement of our own, before the first of the caller. Rejects like `query`. */
  async ask(statement: Statement): Promise<StatementResult> {
    return this.accept(this.#caller.sendAsGateway(statement, openDeadlineMs(this.#environment, this.node)))
  }

  /** Ends the transaction and gives the connection back. Nobody waits: a read has nothing to commit. */
  end(): void {
    this.#caller.end(openDeadlineMs(this.#environment, this.node))
  }
}

/** What runs inside the snapshot. The caller's first statement takes the role that is bound, when a tenant binds it. */
class CallerStatements {
  readonly #connection: Connection
  readonly #withinMs: number
  #takesRole: boolean

  constructor(connection: Connection, takesRole: boolean, withinMs: number) {
    this.#connection = connection
    this.#takesRole = takesRole
    this.#withinMs = withinMs
  }

  async send(statement: Statement): Promise<StatementOutcome> {
    const head = this.#takesRole ? [store.becomeBound] : []
    const outcomes = await this.#connection.flight([...head, statement], this.#withinMs)
    if (head.length > 0) store.requireTag(outcomes[0], 'SET')
    this.#takesRole = false
    return present(outcomes.at(-1), 'one outcome a statement')
  }

  async sendAsGateway(statement: Statement, withinMs: number): Promise<StatementOutcome> {
    const [outcome] = await this.#connection.flight([statement], withinMs)
    return present(outcome, 'one outcome a statement')
  }

  end(withinMs: number): void {
    const release = () => this.#connection.release()
    this.#connection.flight([store.commit, store.becomeGateway], withinMs).then(release, release)
  }
}

function openingStatements({ tenant, question }: SnapshotRequest): Statement[] {
  return [
    store.positionBefore,
    store.beginRead,
    tenant === null ? store.takeSnapshot : store.openRead(tenant),
    store.proof({ ...question, tenant }),
  ]
}

interface Opening {
  readonly proof: ProofRow
  readonly position: Lsn
}

function readOpening(outcomes: readonly StatementOutcome[], shard: ShardName): Opening {
  const position = store.readPosition(present(outcomes[positionAt], 'the outcome of the position'))
  store.requireTag(outcomes[beginAt], 'BEGIN')
  store.requireTag(outcomes[snapshotAt], 'SELECT')
  const proof = store.readProof(present(outcomes[proofAt], 'the outcome of the proof'))
  assert(proof.shard === shard, `the node says that it is of ${proof.shard}, not of ${shard}`)
  return { proof, position }
}
