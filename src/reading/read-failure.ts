import { unreachable } from '../base/assert.ts'
import { HoldfastError } from '../base/errors.ts'
import type { FleetNode, NodeId } from '../directory/topology.ts'
import { ConnectionLost, ConnectionsInUse, ServerError } from '../postgres/failure.ts'
import { sqlState } from '../postgres/sqlstate.ts'
import { codeOfRefusal, codeOfSqlState } from '../transaction/sql-errors.ts'

/**
 * What goes wrong in a read, whether another node may do better, and what it says of the node.
 *
 * The simple way is to take every failure for a lost node. Then one long query that replay cancels, or a queue in this
 * process, sends every reader of the node to the next one, which is the primary in the end. So only silence, a broken
 * connection and a server that says that it goes are losses (R12).
 */
export type Leaving =
  /** It does not answer. Other readers leave it, too, until it answers again. */
  | 'lost'
  /** Replay needed what the snapshot still showed (PostgreSQL, "Handling Query Conflicts"). The node is well. */
  | 'conflict'
  /** It has no memory or no room for this statement. */
  | 'exhausted'
  /** This gateway uses all of its connections to it. */
  | 'busy'
  /** It follows nobody any more, and the topology does not say yet that it is the primary. */
  | 'promoted'
  /** It has prepared the statement for tables that were altered since. Over a new connection it answers. */
  | 'outdated'
  /** It answers and has nothing of the shard: it is being built, or another server listens there. */
  | 'unready'

/** A node did not give a snapshot, or not the answer. A read changes nothing, so it can be asked of another. */
export class NodeLost extends Error {
  readonly node: FleetNode
  readonly why: Leaving

  constructor(node: FleetNode, why: Leaving, cause?: unknown) {
    super(`node ${node.id} ${saying(why, cause)}`, { cause })
    this.name = 'NodeLost'
    this.node = node
    this.why = why
  }
}

/** A server that answers the proof, and not as a node of the shard. */
export class UnreadyNode extends Error {}

/** A snapshot that is being opened, or a statement of the caller in one that a follower, or a primary, has given. */
export type FailedAt = 'opening' | 'statement of a follower' | 'statement of a primary'

/** Why the node is to be left; undefined when the failure speaks of the statement. */
export function leavingFor(error: unknown, at: FailedAt): Leaving | undefined {
  if (error instanceof UnreadyNode) return 'unready'
  if (error instanceof ConnectionsInUse) return 'busy'
  if (error instanceof ConnectionLost) {
    if (isConflict(error.sqlState)) return 'conflict'
    // A statement may be long and a function may think: another node does no better, and this one may be well.
    return at !== 'opening' && isOverdue(error) ? undefined : 'lost'
  }
  if (!(error instanceof ServerError)) return undefined
  if (error.isOutdated) return 'outdated'
  // What a primary refuses so comes from the statement itself: nothing is replayed there.
  if (isConflict(error.sqlState)) return at === 'statement of a primary' ? undefined : 'conflict'
  const isOfServer = codeOfSqlState(error.sqlState) === 'node_unavailable'
  if (at === 'opening') return isOfServer ? 'lost' : 'unready'
  return isOfServer ? 'exhausted' : undefined
}

/** Whether other readers should leave the node, too. */
export function isLoss(why: Leaving): boolean {
  return why === 'lost' || why === 'unready'
}

function isConflict(state: string | undefined): boolean {
  return state === sqlState.serializationFailure || state === sqlState.deadlockDetected
}

function isOverdue(error: ConnectionLost): boolean {
  return error.isLate || error.sqlState === sqlState.idleInTransaction
}

/** The failure of a statement or a node in the caller's terms. */
export function toReadError(
  error: unknown,
  node: FleetNode,
  asked?: readonly { readonly node: NodeId; readonly why: string }[],
): unknown {
  const place = { shard: node.shard, node: node.id }
  if (error instanceof NodeLost) {
    const { why, message } = error
    const hint = hintFor(why)
    const detail = {
      ...place,
      why,
      retryAfterMs: retryAfterMsOf[why],
      ...(asked === undefined ? {} : { asked }),
    }
    return new HoldfastError('node_unavailable', message, {
      ...(hint === undefined ? {} : { hint }),
      detail,
      cause: error,
    })
  }
  if (error instanceof ConnectionLost) return connectionError(error, place)
  if (error instanceof TypeError) {
    return new HoldfastError('argument_invalid', `a value cannot be sent: ${error.message}`, { cause: error })
  }
  if (!(error instanceof ServerError)) return error
  const detail = { ...place, sqlState: error.sqlState }
  if (error.sqlState === sqlState.readOnlyTransaction) {
    const hint = 'use transact for statements that write'
    return new HoldfastError('statement_refused', `a read cannot write: ${error.message}`, {
      hint,
      detail,
      cause: error,
    })
  }
  return new HoldfastError(codeOfRefusal(error), `${error.message} (SQLSTATE ${error.sqlState})`, {
    ...(error.hint === undefined ? {} : { hint: error.hint }),
    detail,
    cause: error,
  })
}

/** The failure to settle what was decided on a primary: one that does not answer is told as it is where a snapshot is opened. */
export function toSettlingError(error: HoldfastError, node: FleetNode): unknown {
  const why = leavingFor(error.cause, 'opening')
  return why === undefined ? error : toReadError(new NodeLost(node, why, error.cause), node, [{ node: node.id, why }])
}

function connectionError(error: ConnectionLost, place: { readonly node: string }): HoldfastError {
  if (!isOverdue(error)) {
    const message = `node ${place.node} does not answer: ${error.message}`
    return new HoldfastError('node_unavailable', message, { detail: place, cause: error })
  }
  const [message, hint] = error.isLate
    ? [`a statement was given up on node ${place.node}: ${error.message}`, 'ask for less at once']
    : [
        `node ${place.node} ended a read whose function asked nothing for too long`,
        'ask for everything first, and work on it after the read',
      ]
  return new HoldfastError('statement_timeout', message, { hint, detail: place, cause: error })
}

/** When it may be worth asking again: at once, when the queue has moved, or after about a restart or promotion. */
const retryAfterMsOf: Readonly<Record<Leaving, number>> = {
  lost: 500,
  conflict: 25,
  exhausted: 500,
  busy: 100,
  promoted: 500,
  outdated: 25,
  unready: 500,
}

function saying(why: Leaving, cause: unknown): string {
  const reason = cause instanceof Error ? cause.message : String(cause)
  switch (why) {
    case 'lost':
      return `does not answer: ${reason}`
    case 'conflict':
      return 'gave the snapshot up: replay needed what it still showed'
    case 'exhausted':
      return `cannot run the statement: ${reason}`
    case 'busy':
      return `was not asked: ${reason}`
    case 'promoted':
      return 'was promoted, and takes no traffic yet'
    case 'outdated':
      return 'had prepared the statement for tables that were altered since'
    case 'unready':
      return `is not ready: ${reason}`
    default:
      return unreachable(why)
  }
}

function hintFor(why: Leaving): string | undefined {
  if (why === 'conflict') return 'a query that takes long is not disturbed on the primary: level `primary`'
  if (why === 'busy') return 'allow a longer wait, or send fewer reads at once'
  return undefined
}
