import { HoldfastError } from '../base/errors.ts'
import type { FleetNode } from '../directory/topology.ts'
import { ConnectionLost, ServerError } from '../postgres/connection.ts'
import { sqlState } from '../postgres/sqlstate.ts'
import { codeOfSqlState } from '../transaction/sql-errors.ts'

/** What goes wrong in a read, and whether another node may do better. */

/** A node did not give a snapshot, or not the answer. A read changes nothing, so it can be asked of another. */
export class NodeLost extends Error {
  readonly node: FleetNode

  constructor(node: FleetNode, cause: unknown) {
    super(`node ${node.id} does not answer: ${cause instanceof Error ? cause.message : String(cause)}`, { cause })
    this.name = 'NodeLost'
    this.node = node
  }
}

/**
 * Whether a failure speaks of the node and not of the statement: it went away, or replay needed what the snapshot still
 * showed (PostgreSQL, "Handling Query Conflicts").
 */
export function isNodeFailure(error: unknown): boolean {
  if (error instanceof ConnectionLost) return true
  if (!(error instanceof ServerError)) return false
  const { sqlState: state } = error
  if (state === sqlState.serializationFailure || state === sqlState.deadlockDetected) return true
  return codeOfSqlState(state) === 'node_unavailable'
}

/** The failure of a statement or a node in the caller's terms. */
export function toReadError(error: unknown, node: FleetNode): unknown {
  const place = { shard: node.shard, node: node.id }
  if (error instanceof NodeLost || error instanceof ConnectionLost) {
    return new HoldfastError('node_unavailable', error.message, { detail: place, cause: error })
  }
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
  return new HoldfastError(codeOfSqlState(error.sqlState), `${error.message} (SQLSTATE ${error.sqlState})`, {
    ...(error.hint === undefined ? {} : { hint: error.hint }),
    detail,
    cause: error,
  })
}
