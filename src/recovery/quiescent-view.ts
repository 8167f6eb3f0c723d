import { assert, present } from '../base/assert.ts'
import type { ShardName } from '../directory/topology.ts'
import type { ConnectionTarget, Statement, StatementResult } from '../postgres/statement.ts'
import { Connection } from '../postgres/connection.ts'
import { accepted } from '../postgres/statement.ts'
import type { InvariantView } from './invariant-check.ts'

const connectWithinMs = 10_000

/**
 * A view over shards that nobody writes to, such as a restored environment: one read-only snapshot each. On shards that take traffic
 * it would be fractured; those are read through `reading/snapshot.ts`.
 */
class QuiescentView implements InvariantView, AsyncDisposable {
  readonly #connections: ReadonlyMap<ShardName, Connection>

  constructor(connections: ReadonlyMap<ShardName, Connection>) {
    this.#connections = connections
  }

  async read(shard: ShardName, statement: Statement): Promise<StatementResult> {
    const [, outcome] = await this.#connection(shard).flight([{ text: 'savepoint reading' }, statement])
    if (outcome?.ok === false) await this.#connection(shard).query('rollback to savepoint reading')
    return accepted(present(outcome, 'one outcome a statement'))
  }

  async evaluate(shard: ShardName, statement: Statement): Promise<StatementResult> {
    const [, , , outcome] = await this.#connection(shard).flight([
      { text: 'savepoint reading' },
      { text: 'set local role holdfast_bound' },
      { text: 'set local search_path = pg_catalog' },
      statement,
      { text: 'rollback to savepoint reading' },
    ])
    return accepted(present(outcome, 'one outcome a statement'))
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const connection of this.#connections.values()) {
      if (connection.status !== 'closed') await connection.query('rollback')
      connection.release()
    }
  }

  #connection(shard: ShardName): Connection {
    return present(this.#connections.get(shard), `the view covers ${shard}`)
  }
}

/** Opens the snapshots, as administrators of the servers. Dispose it. */
export async function openQuiescentView(targets: ReadonlyMap<ShardName, ConnectionTarget>): Promise<QuiescentView> {
  const connections = new Map<ShardName, Connection>()
  try {
    for (const [shard, target] of targets) {
      const connection = await Connection.connect(target, connectWithinMs)
      connections.set(shard, connection)
      await connection.query('begin isolation level repeatable read read only')
      const { rows } = await connection.query<{ seen: string }>('select pg_current_snapshot()::text as seen')
      assert(rows.length === 1, 'a snapshot is taken by the first query')
    }
  } catch (error) {
    for (const connection of connections.values()) connection.destroy()
    throw error
  }
  return new QuiescentView(connections)
}
