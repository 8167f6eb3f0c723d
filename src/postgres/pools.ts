import pg from 'pg'
import type { ConnectionTarget, Statement, StatementOutcome } from './connection.ts'
import { clientConfig, Connection, connectFailure } from './connection.ts'

/**
 * The connections of one process, by server and purpose.
 *
 * A transaction reserves a connection of its own until it ends. What belongs to no transaction (observe, barrier,
 * settlement, proofs of a resolver) goes through a second, smaller pool: transactions that wait for each other
 * can hold every connection of the first, and the one that would let them go on must still get through.
 */
export interface PoolLimits {
  readonly transactionConnectionsMax: number
  readonly serviceConnectionsMax: number
  readonly connectWithinMs: number
  readonly idleMs: number
}

export const poolLimitsDefault: PoolLimits = {
  transactionConnectionsMax: 24,
  serviceConnectionsMax: 6,
  connectWithinMs: 5_000,
  idleMs: 60_000,
}

export class ConnectionPools {
  readonly #limits: PoolLimits
  readonly #pools = new Map<string, pg.Pool>()
  #closed = false

  constructor(limits: PoolLimits = poolLimitsDefault) {
    this.#limits = limits
  }

  /** A connection for one transaction; `release` it. Rejects with `ConnectionLost` (not sent) or `ServerError`. */
  reserve(target: ConnectionTarget): Promise<Connection> {
    return this.#take(target, 'transaction', this.#limits.transactionConnectionsMax)
  }

  /** Statements in autocommit, in one flight on a connection of the service pool. */
  async flight(
    target: ConnectionTarget,
    statements: readonly Statement[],
    deadlineMs?: number,
  ): Promise<StatementOutcome[]> {
    const connection = await this.#take(target, 'service', this.#limits.serviceConnectionsMax)
    try {
      return await connection.flight(statements, deadlineMs)
    } finally {
      connection.release()
    }
  }

  /** Drops the idle connections to a server that is gone, so that the next use connects anew. */
  async forget(target: ConnectionTarget): Promise<void> {
    const keys = ['transaction', 'service'].map((purpose) => keyOf(target, purpose))
    const pools = keys.flatMap((key) => this.#pools.get(key) ?? [])
    for (const key of keys) this.#pools.delete(key)
    await Promise.all(pools.map((pool) => pool.end()))
  }

  async close(): Promise<void> {
    this.#closed = true
    const pools = [...this.#pools.values()]
    this.#pools.clear()
    await Promise.all(pools.map((pool) => pool.end()))
  }

  async #take(target: ConnectionTarget, purpose: string, max: number): Promise<Connection> {
    if (this.#closed) throw connectFailure(new Error('the pools are closed'), target)
    const key = keyOf(target, purpose)
    let pool = this.#pools.get(key)
    if (pool === undefined) {
      const config = clientConfig(target, this.#limits.connectWithinMs)
      pool = new pg.Pool({ ...config, max, idleTimeoutMillis: this.#limits.idleMs })
      pool.on('error', discardIdleError)
      this.#pools.set(key, pool)
    }
    try {
      return Connection.borrow(await pool.connect())
    } catch (error) {
      throw connectFailure(error, target)
    }
  }
}

function keyOf(target: ConnectionTarget, purpose: string): string {
  return JSON.stringify([target.host, target.port, target.user, target.database, purpose])
}

/** The pool drops an idle connection that breaks by itself; the next user connects anew. */
function discardIdleError(): void {}
