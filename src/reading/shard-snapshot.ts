import { present } from '../base/assert.ts'
import type { FleetNode, TenantName } from '../directory/topology.ts'
import type { Hlc } from '../hlc/hlc.ts'
import type { Connection } from '../postgres/connection.ts'
import type { ConnectionTarget, Statement, StatementOutcome, StatementResult } from '../postgres/statement.ts'
import { ConnectionLost } from '../postgres/failure.ts'
import { accepted } from '../postgres/statement.ts'
import type { LsnAfterSnapshot, LsnBeforeSnapshot } from '../session/session.ts'
import { lsnAfterSnapshot, lsnBeforeSnapshot } from '../session/session.ts'
import { CallerStatements } from './caller-statements.ts'
import type { ReadEnvironment } from './environment.ts'
import { openDeadlineMs } from './environment.ts'
import type { Remembered } from './expectation.ts'
import { greatestOf, remember, unbounded } from './expectation.ts'
import { flightOfStatement } from './lateness.ts'
import type { FailedAt } from './read-failure.ts'
import { isLoss, leavingFor, NodeLost, toReadError, UnreadyNode } from './read-failure.ts'
import type { EvidenceQuestion, ProofRow } from './read-store.ts'
import * as store from './read-store.ts'

/**
 * One snapshot of one node: a REPEATABLE READ transaction, what is needed to judge it, and the statements that it answers.
 *
 * It is opened in one flight, with the caller's first statement in it. The order of that flight is the argument: the position
 * is read before the statement that takes the snapshot (HZ-T1), everything else inside it. There are two forms:
 *
 *   in full   The position, the evidence and the caller's statement are answered one by one: what cannot be proven is waited for
 *             while the statement still runs. The application's role is taken for the session, not for the transaction: should
 *             BEGIN fail, the statement behind it runs as the application, unbound, and not as the gateway.
 *   lean      Where what the server process has told satisfies the demand. Its position was read before; the role is taken with
 *             the evidence, and one sync point is behind it all: what BEGIN or the evidence fails is not run. Where the statement
 *             is the only one, the end of the transaction is in the flight as well.
 */
export interface SnapshotRequest {
  readonly node: FleetNode
  readonly target: ConnectionTarget
  /** Null for an operator's read: no tenant binds it, and it runs as the role of the target. */
  readonly tenant: TenantName | null
  readonly question: Pick<EvidenceQuestion, 'transactionIds' | 'histories'>
  /** Whether it may be lean. */
  readonly isExpected: (remembered: Remembered) => boolean
  /** How long it may stand behind those of this process who use every connection to the node. */
  readonly queueMs: number
}

/** A caller's statement that a snapshot is opened with. */
export interface FirstStatement {
  readonly statement: Statement
  /** Whether no other follows. Asked once, when it is sent. */
  readonly isOnly: () => boolean
}

export interface OpenedSnapshot {
  readonly snapshot: ShardSnapshot
  /** The outcome of the caller's first statement; worth something only when the snapshot is proven. */
  readonly answer: Promise<StatementOutcome> | undefined
  readonly isLean: boolean
  /** How long it stood behind others for a connection. */
  readonly queuedMs: number
}

/** Places in the opening flight. What the process has told was read in an earlier one. */
const toldAt = -1
const fullAt = { position: 0, begin: 1, evidence: 2 } as const
const leanAt = { begin: 0, evidence: 1, first: 2, commit: 3 } as const

interface Opening {
  readonly proof: ProofRow
  readonly positionBefore: LsnBeforeSnapshot
  readonly positionAfter: LsnAfterSnapshot
}

export class ShardSnapshot {
  readonly node: FleetNode
  readonly proof: ProofRow
  /** What the node had applied before the snapshot was taken. */
  readonly positionBefore: LsnBeforeSnapshot
  /** What the snapshot shows was committed at or before this. */
  readonly positionAfter: LsnAfterSnapshot
  /** Nothing that the snapshot shows is later. */
  readonly greatestTimestamp: Hlc
  readonly #environment: ReadEnvironment
  readonly #caller: CallerStatements

  private constructor(
    environment: ReadEnvironment,
    caller: CallerStatements,
    node: FleetNode,
    { proof, positionBefore, positionAfter }: Opening,
    remembered: Remembered | undefined,
  ) {
    this.node = node
    this.proof = proof
    this.positionBefore = positionBefore
    this.positionAfter = positionAfter
    this.greatestTimestamp = greatestOf(proof, remembered ?? unbounded)
    this.#environment = environment
    this.#caller = caller
    environment.told.set(caller.session, remember(proof, positionBefore, this.greatestTimestamp, remembered))
  }

  /**
   * Rejects with `NodeLost` when the node does not give a snapshot in time, or not as what the fleet has it for; with
   * `statement_timeout` for a first statement that takes too long.
   */
  static async open(
    environment: ReadEnvironment,
    request: SnapshotRequest,
    first: FirstStatement | undefined,
  ): Promise<OpenedSnapshot> {
    const { node, target, tenant, queueMs } = request
    const { watch, clock } = environment
    const startedMs = clock.monotonicMs()
    let connection: Connection | undefined
    try {
      connection = await environment.pools.reserve(target, openDeadlineMs(environment, node), queueMs)
      const queuedMs = connection.hasQueued ? clock.monotonicMs() - startedMs : 0
      const remembered = environment.told.get(connection.session)
      if (first !== undefined && tenant !== null && remembered !== undefined && request.isExpected(remembered)) {
        const opened = await ShardSnapshot.#openLean(environment, request, connection, tenant, first, remembered)
        if (opened !== undefined) return { ...opened, queuedMs }
      }
      const opened = await ShardSnapshot.#openInFull(environment, request, connection, first?.statement, remembered)
      return { ...opened, queuedMs }
    } catch (error) {
      connection?.destroy()
      const why = leavingFor(error, 'opening')
      if (why === undefined) throw error
      if (isLoss(why)) watch.noteLost(node.id)
      // Our queue says nothing of the node. Whether it still answers is asked over a connection that no read uses.
      if (why === 'busy') void watch.look(node)
      throw new NodeLost(node, why, error)
    }
  }

  static async #openInFull(
    environment: ReadEnvironment,
    { node, tenant, question }: SnapshotRequest,
    connection: Connection,
    first: Statement | undefined,
    remembered: Remembered | undefined,
  ): Promise<Omit<OpenedSnapshot, 'queuedMs'>> {
    const { through } = remembered ?? unbounded
    const evidence = store.evidence({ ...question, tenant, through })
    const opening = connection.flight(
      [store.positionBefore, store.beginRead, evidence],
      openDeadlineMs(environment, node),
    )
    const caller = new CallerStatements(environment, node, connection, tenant !== null)
    const answer = first === undefined ? undefined : caller.send(first)
    answer?.catch(() => undefined)
    const outcomes = await opening
    const lsn = store.readPosition(present(outcomes[fullAt.position], 'the outcome of the position'))
    store.requireTag(outcomes[fullAt.begin], 'BEGIN')
    const proof = requireNode(node, outcomes[fullAt.evidence])
    const snapshotAt = fullAt.evidence
    const read = {
      proof,
      positionBefore: lsnBeforeSnapshot({ lsn, readAt: fullAt.position, snapshotAt }),
      positionAfter: lsnAfterSnapshot({ lsn: proof.positionAfter, readAt: fullAt.evidence, snapshotAt }),
    }
    return { snapshot: new ShardSnapshot(environment, caller, node, read, remembered), answer, isLean: false }
  }

  /** Undefined for a statement that cannot be sent: nothing was, and in full it fails by itself. */
  static async #openLean(
    environment: ReadEnvironment,
    { node }: SnapshotRequest,
    connection: Connection,
    tenant: TenantName,
    { statement, isOnly }: FirstStatement,
    remembered: Remembered,
  ): Promise<Omit<OpenedSnapshot, 'queuedMs'> | undefined> {
    const evidence = store.evidenceUnasked(tenant, remembered.through)
    const flight = [store.beginRead, evidence, { ...statement, joined: true as const }]
    if (isOnly()) flight.push(store.commit)
    const outcomes = await flightOfStatement(environment, node, connection, flight).catch((error: unknown) => {
      if (error instanceof TypeError) return undefined
      // The node has answered every look meanwhile: it is the statement that takes too long, here and elsewhere.
      throw error instanceof ConnectionLost && error.isLate ? toReadError(error, node) : error
    })
    if (outcomes === undefined) return undefined
    store.requireTag(outcomes[leanAt.begin], 'BEGIN')
    const proof = requireNode(node, outcomes[leanAt.evidence])
    const answer = present(outcomes[leanAt.first], 'the outcome of the first statement')
    if (answer.ok && flight.length > leanAt.commit) store.requireTag(outcomes[leanAt.commit], 'COMMIT')
    const snapshotAt = leanAt.evidence
    const read = {
      proof,
      positionBefore: lsnBeforeSnapshot({ lsn: remembered.replayed, readAt: toldAt, snapshotAt }),
      positionAfter: lsnAfterSnapshot({ lsn: proof.positionAfter, readAt: leanAt.evidence, snapshotAt }),
    }
    const caller = new CallerStatements(environment, node, connection, false)
    const snapshot = new ShardSnapshot(environment, caller, node, read, remembered)
    return { snapshot, answer: Promise.resolve(answer), isLean: true }
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
      const { watch } = this.#environment
      const why = leavingFor(error, this.#failedAt)
      if (why === 'lost') {
        watch.noteLost(this.node.id)
        // One connection ended: the node may be well all the same.
        void watch.look(this.node)
      }
      throw why === undefined ? error : new NodeLost(this.node, why, error)
    }
  }

  get #failedAt(): FailedAt {
    return this.proof.follows ? 'statement of a follower' : 'statement of a primary'
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

/** The proof of what the fleet has the node for; throws why it is another. */
function requireNode(node: FleetNode, outcome: StatementOutcome | undefined): ProofRow {
  const proof = store.readEvidence(present(outcome, 'the outcome of the evidence'))
  if (proof === undefined) throw new UnreadyNode('no shard is founded there')
  if (proof.shard !== node.shard) throw new UnreadyNode(`it is of ${proof.shard}`)
  // R15: what it writes before its history is open lies behind the fork, and the old history has no name for it.
  if (node.role === 'follower' && !proof.follows) throw new NodeLost(node, 'promoted')
  return proof
}
