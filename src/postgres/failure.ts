import pg from 'pg'
import { PoolBusy } from './pool.ts'
import { sqlState } from './sqlstate.ts'
import type { ConnectionTarget, StatementOutcome } from './statement.ts'

/** What a server, or the way to it, can have against a flight. */

/** PostgreSQL refused one statement. */
export class ServerError extends Error {
  readonly sqlState: string
  readonly detail: string | undefined
  readonly hint: string | undefined
  readonly constraint: string | undefined
  readonly table: string | undefined
  /** What the server has prepared is gone, or no longer fits its tables: over a new connection the same statement is another. */
  readonly isOutdated: boolean

  constructor(cause: pg.DatabaseError) {
    super(cause.message, { cause })
    this.name = 'ServerError'
    this.sqlState = cause.code ?? 'XX000'
    this.detail = cause.detail
    this.hint = cause.hint
    this.constraint = cause.constraint
    this.table = cause.table
    this.isOutdated = isOutdated(cause)
  }
}

function isOutdated({ code, routine }: pg.DatabaseError): boolean {
  // PostgreSQL has no code of its own for a plan that would give other columns than were told.
  const isOfPlan = code === sqlState.featureNotSupported && routine === 'RevalidateCachedQuery'
  return isOfPlan || code === sqlState.invalidStatementName
}

/** The connection ended or went silent. `sent` tells whether the statements may have reached the server. */
export class ConnectionLost extends Error {
  readonly sent: boolean
  /** The outcomes of the flight that did arrive, from its first statement on: an acknowledged commit stays one. */
  readonly outcomes: readonly StatementOutcome[]

  constructor(message: string, sent: boolean, cause?: unknown, outcomes: readonly StatementOutcome[] = []) {
    super(message, { cause })
    this.name = 'ConnectionLost'
    this.sent = sent
    this.outcomes = outcomes
  }

  /** Of the server that ended the connection, when it said why. */
  get sqlState(): string | undefined {
    return this.cause instanceof pg.DatabaseError ? this.cause.code : undefined
  }

  /** True when the flight was given up here: whether the server was still at work on it is not known. */
  get isLate(): boolean {
    return this.cause instanceof AnswerLate
  }
}

/** All connections that a pool may have to the server are in use here. It says nothing of the server. */
export class ConnectionsInUse extends ConnectionLost {
  constructor(cause: PoolBusy, { host, port }: ConnectionTarget) {
    super(`${cause.message} (${host}:${port})`, false, cause)
    this.name = 'ConnectionsInUse'
  }
}

/** So many backends wait for followers that nobody here waits for any more, that no more are sent what would wait with them. */
export class FollowersAwaited extends ConnectionLost {
  constructor(waiting: number, { host, port }: ConnectionTarget) {
    super(`${waiting} that were given up here wait for its followers still (${host}:${port})`, false)
    this.name = 'FollowersAwaited'
  }
}

/** The flight was given up here. */
export class AnswerLate extends Error {}

/** A failure to connect: nothing was sent. A refusal by the server keeps its SQLSTATE. */
export function connectFailure(error: unknown, target: ConnectionTarget): Error {
  if (error instanceof pg.DatabaseError) return new ServerError(error)
  if (error instanceof PoolBusy) return new ConnectionsInUse(error, target)
  return new ConnectionLost(`cannot connect to ${target.host}:${target.port}`, false, error)
}
