import { present } from '../base/assert.ts'
import { HoldfastError } from '../base/errors.ts'
import type { FleetNode, TenantName } from '../directory/topology.ts'
import { accepted } from '../postgres/statement.ts'
import { formatLsn } from '../postgres/lsn.ts'
import type { QueryResult } from '../transaction/transaction.ts'
import { requireAllowed, toQueryResult } from './caller-statement.ts'
import type { ReadEnvironment } from './environment.ts'
import { leavingFor, NodeLost, toReadError } from './read-failure.ts'
import * as store from './read-store.ts'

/**
 * What a node would have shown had nobody asked for a proof: for demonstrations and tests, never for an application.
 * Row security holds all the same.
 */
export interface UncheckedRequest {
  readonly tenant: string
  readonly node: string
  readonly text: string
  readonly values?: readonly unknown[] | undefined
}

export interface UncheckedAnswer<R> extends QueryResult<R> {
  /** What the node had applied, as an LSN of the shard. */
  readonly appliedThrough: string
}

/** Throws `unknown_node`, `node_unavailable`, and what a statement throws. */
export async function readUnchecked<R = Record<string, unknown>>(
  environment: ReadEnvironment,
  request: UncheckedRequest,
): Promise<UncheckedAnswer<R>> {
  const { targetOf, limits } = environment
  requireAllowed(request.text)
  const node = nodeOf(environment, request.node)
  const { text, values = [] } = request
  try {
    const connection = await environment.pools.reserve(targetOf(node), limits.openWithinMs)
    const outcomes = await connection
      .flight(
        [
          store.positionBefore,
          store.beginRead,
          store.openRead(request.tenant as TenantName),
          store.becomeBound,
          { text, values },
          store.commit,
          store.becomeGateway,
        ],
        limits.statementWithinMs,
      )
      .finally(() => connection.release())
    const [position, begin, open, role, answer] = outcomes
    store.requireTag(begin, 'BEGIN')
    store.requireTag(open, 'SELECT')
    store.requireTag(role, 'SET')
    return {
      ...toQueryResult<R>(accepted(present(answer, 'the outcome of the statement'))),
      appliedThrough: formatLsn(store.readPosition(present(position, 'the outcome of the position'))),
    }
  } catch (error) {
    const why = leavingFor(error, node.role === 'follower' ? 'statement of a follower' : 'statement of a primary')
    throw toReadError(why === undefined ? error : new NodeLost(node, why, error), node)
  }
}

function nodeOf({ topology }: ReadEnvironment, id: string): FleetNode {
  const nodes = [...topology.current().shards.values()].flatMap((shard) => [shard.primary, ...shard.followers])
  const found = nodes.find((node) => node.id === id)
  if (found !== undefined) return found
  throw new HoldfastError('unknown_node', `no node ${id} in the topology`, {
    hint: `known nodes are ${nodes.map((node) => node.id).join(', ')}`,
  })
}
