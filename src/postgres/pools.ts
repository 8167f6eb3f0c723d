import { present } from '../base/assert.ts'
import type { Ended } from './connection.ts'
import type { ConnectionTarget, Statement, StatementOutcome } from './statement.ts'
import { Connection } from './connection.ts'
import { connectFailure } from './failure.ts'
import { clientConfig } from './driver.ts'
import { GivenUp } from './given-up.ts'
import { Pool } from './pool.ts'

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

type Purpose = 'transaction' | 'service' | 'look'

export const poolLimitsDefault: PoolLimits = {
  transactionConnectionsMax: 24,
  serviceConnectionsMax: 6,
  connectWithinMs: 5_000,
  idleMs: 60_000,
}

export class ConnectionPools {
  readonly #limits: PoolLimits
  readonly #pools = new Map<string, Pool>()
  readonly #inUse = new Set<Connection>()
  readonly #givenUp = new Map<string, GivenUp>()
  #closed = false

  constructor(limits: PoolLimits = poolLimitsDefault) {
    this.#limits = limits
  }

  /**
   * A connection for one transaction; `release` it. Rejects with `ConnectionLost` (not sent) or `ServerError`, the first also
   * when none could be made within that time. For those who use them all `queueMs` is waited: then it is `ConnectionsInUse`.
   */
  reserve(target: ConnectionTarget, withinMs = this.#limits.connectWithinMs, queueMs = withinMs): Promise<Connection> {
    return this.#take(target, 'transaction', this.#limits.transactionConnectionsMax, withinMs, queueMs)
  }

  /**
   * For who is to send what waits for followers. Throws `FollowersAwaited` (not sent) where so many wait already that were given
   * up here that no more may.
   */
  requireRoom(target: ConnectionTarget): void {
    this.#givenUp.get(keyOf(target))?.requireRoom()
  }

  /** As `flight`, of what waits for followers. */
  async durableFlight(
    target: ConnectionTarget,
    statements: readonly Statement[],
    deadlineMs: number,
    onWritten?: () => Promise<void>,
  ): Promise<StatementOutcome[]> {
    const requireRoom = () => this.requireRoom(target)
    requireRoom()
    // Asked once more by who stood in a queue until now.
    return this.#serve(target, this.#limits.connectWithinMs, (connection) => {
      requireRoom()
      return connection.flight(statements, deadlineMs, onWritten)
    })
  }

  /** Statements in autocommit, in one flight on a connection of the service pool; `onWritten` as of a connection's. */
  flight(
    target: ConnectionTarget,
    statements: readonly Statement[],
    deadlineMs?: number,
    connectWithinMs = this.#limits.connectWithinMs,
    onWritten?: () => Promise<void>,
  ): Promise<StatementOutcome[]> {
    return this.#serve(target, connectWithinMs, (connection) => connection.flight(statements, deadlineMs, onWritten))
  }

  async #serve<T>(
    target: ConnectionTarget,
    connectWithinMs: number,
    use: (connection: Connection) => Promise<T>,
  ): Promise<T> {
    const { serviceConnectionsMax } = this.#limits
    const connection = await this.#take(target, 'service', serviceConnectionsMax, connectWithinMs, connectWithinMs)
    try {
      return await use(connection)
    } finally {
      connection.release()
    }
  }

  /** On a connection of its own: what it looks for may hold all others, and those who wait for them stand in front of it. */
  async #look(target: ConnectionTarget, statement: Statement, withinMs: number): Promise<StatementOutcome> {
    const connection = await this.#take(target, 'look', 1, withinMs, withinMs)
    try {
      const [outcome] = await connection.flight([statement], withinMs)
      return present(outcome, 'one outcome a statement')
    } finally {
      connection.release()
    }
  }

  /**
   * Drops the connections to a server that is gone, so that the next use connects anew. Those in use end when
   * they are released; nobody waits for them, since a server that is gone may hold them for ever.
   */
  async forget(target: ConnectionTarget): Promise<void> {
    const server = keyOf(target)
    for (const key of [`${server} transaction`, `${server} service`, `${server} look`]) {
      this.#pools.get(key)?.end()
      this.#pools.delete(key)
    }
    this.#givenUp.get(server)?.close()
    this.#givenUp.delete(server)
  }

  /** Closes everything. What is in use is broken off: a caller that wants an answer waits for it before. */
  async close(): Promise<void> {
    this.#closed = true
    for (const givenUp of this.#givenUp.values()) givenUp.close()
    for (const pool of this.#pools.values()) pool.end()
    this.#pools.clear()
    for (const connection of this.#inUse) connection.destroy()
  }

  async #take(
    target: ConnectionTarget,
    purpose: Purpose,
    max: number,
    withinMs: number,
    queueMs: number,
  ): Promise<Connection> {
    if (this.#closed) throw connectFailure(new Error('the pools are closed'), target)
    const pool = this.#pool(target, purpose, max)
    const hasQueued = pool.isBusy
    try {
      const client = await pool.take(withinMs, queueMs)
      const giveBack = (after: Ended) => {
        this.#inUse.delete(connection)
        pool.giveBack(client, after === 'usable')
        if (after === 'unanswered' && purpose !== 'look') this.#noteGivenUp(target, client.processID)
      }
      const lender = { giveBack, noteOutdated: () => pool.renew(client) }
      const connection = Connection.borrow(client, lender, hasQueued)
      this.#inUse.add(connection)
      if (this.#closed) connection.destroy()
      return connection
    } catch (error) {
      throw connectFailure(error, target)
    }
  }

  /** A session that ended before it had told its process was sent nothing that waits. */
  #noteGivenUp(target: ConnectionTarget, processId: number | null): void {
    if (this.#closed || processId === null) return
    const server = keyOf(target)
    let givenUp = this.#givenUp.get(server)
    if (givenUp === undefined) {
      givenUp = new GivenUp(target, (statement, withinMs) => this.#look(target, statement, withinMs))
      this.#givenUp.set(server, givenUp)
    }
    givenUp.note(processId)
  }

  #pool(target: ConnectionTarget, purpose: Purpose, max: number): Pool {
    const key = `${keyOf(target)} ${purpose}`
    const known = this.#pools.get(key)
    if (known !== undefined) return known
    const { connectWithinMs, idleMs } = this.#limits
    const client = clientConfig({ ...target, applicationName: nameFor(target, purpose) }, connectWithinMs)
    const pool = new Pool({ client, max, idleMs, waitMs: connectWithinMs })
    this.#pools.set(key, pool)
    return pool
  }
}

/** What belongs to nobody's transaction says so: on the server's list of sessions, and where round trips are counted. */
function nameFor({ applicationName }: ConnectionTarget, purpose: Purpose): string {
  return purpose === 'transaction' ? applicationName : `${applicationName} service`
}

function keyOf(target: ConnectionTarget): string {
  return JSON.stringify([target.host, target.port, target.user, target.database])
}
