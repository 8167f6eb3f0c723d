import pg from 'pg'
import { present } from '../base/assert.ts'
import type { DriverClient, WireStatement } from './driver.ts'
import { clientConfig, serialise } from './driver.ts'
import { AnswerLate, connectFailure, ConnectionLost, ServerError } from './failure.ts'
import { sqlState } from './sqlstate.ts'
import {
  accepted,
  type ConnectionTarget,
  type Row,
  type Statement,
  type StatementOutcome,
  type StatementResult,
} from './statement.ts'
import type { WireAnswer } from './wire-flight.ts'
import { WireFlight } from './wire-flight.ts'

/**
 * One connection to one server, over which statements travel in flights.
 *
 * A flight is a list of statements written at once and answered in order: it costs one round trip. PostgreSQL
 * gives each statement of a pipeline its own sync point, which makes these things easy to get wrong:
 *
 *   D1  Values are serialised before the first byte is written, so no statement can fail on the client while
 *       a `COMMIT` behind it is already on its way.
 *   D2  Statement names are a hash of the text, so a name can never be reused with another text.
 *   D3  A failed statement does not stop those behind it. The caller reads every outcome, and a commit only
 *       counts when its command tag says so: `COMMIT` in an aborted transaction succeeds with tag `ROLLBACK`.
 *   D4  A flight that gets no answer in time closes the connection and rejects with `ConnectionLost`. What was
 *       sent may still take effect: the outcome is unknown.
 *   D5  An error is an outcome only once the server has gone on to its sync point. A backend that is terminated
 *       just after a commit sends an error in place of the tag it had ready: such an end is `ConnectionLost`.
 *   D6  Joined statements have one sync point, and are answered when it is passed. What a failure skips has the outcome
 *       of that failure, and nothing of it took effect: not even a `COMMIT` or `ROLLBACK`, so the transaction stays.
 *
 * HAZARD: a wait for synchronous followers that is cancelled or terminated answers success and a warning.
 * Warnings are therefore part of a statement's outcome, and no setting of a role or database can silence them.
 */

export type TransactionStatus = 'idle' | 'open' | 'failed' | 'closed'

/** What is left when a connection is given back: one for the next, none, or none whose backend may be at work still. */
export type Ended = 'usable' | 'spent' | 'unanswered'

/** Whoever lends a client to one connection after another. */
export interface Lender {
  giveBack(after: Ended): void
  /** A statement that the server has prepared does not fit its tables any more: those of other clients will not either. */
  noteOutdated(): void
}

interface Flight {
  readonly wire: WireFlight
  readonly outcomes: StatementOutcome[]
  readonly resolve: (outcomes: StatementOutcome[]) => void
  readonly reject: (error: ConnectionLost) => void
  readonly timer: NodeJS.Timeout | undefined
}

/**
 * Named statements live as long as their connection, and the name of a text that the server refused as well. Texts that a
 * program makes up would fill both sides.
 */
const statementsKeptMax = 500

export class Connection {
  readonly #client: DriverClient
  readonly #lender: Lender
  /** For a flight that names no deadline of its own. */
  readonly #answerWithinMs: number | undefined
  /** Others used every connection when its owner asked for one. */
  readonly hasQueued: boolean
  /** In the order in which they were sent, which is the order of the answers. */
  readonly #flights: Flight[] = []
  #lost: Error | undefined
  #released = false
  #worn = false

  private constructor(client: DriverClient, lender: Lender, hasQueued = false, answerWithinMs?: number) {
    this.#client = client
    this.#answerWithinMs = answerWithinMs
    this.hasQueued = hasQueued
    this.#lender = lender
    client.on('notice', this.#onNotice)
    client.on('error', this.#onLost)
    client.connection.on('readyForQuery', this.#onSync)
    client.connection.on('copyInResponse', this.#onCopyIn)
  }

  /**
   * A connection of its own, ended by `release`. Rejects with `ConnectionLost` (not sent) or `ServerError`. `answerWithinMs` is the deadline
   * of flights that name none.
   */
  static async connect(
    target: ConnectionTarget,
    connectWithinMs: number,
    answerWithinMs?: number,
  ): Promise<Connection> {
    const client = new pg.Client(clientConfig(target, connectWithinMs)) as DriverClient
    client.on('error', ignoreLateError)
    try {
      await client.connect()
    } catch (error) {
      throw connectFailure(error, target)
    }
    const lender = { giveBack: () => void client.end().catch(ignoreLateError), noteOutdated: () => {} }
    return new Connection(client, lender, false, answerWithinMs)
  }

  /** Takes over a client until it is released or lost, and gives it back then. */
  static borrow(client: DriverClient, lender: Lender, hasQueued: boolean): Connection {
    return new Connection(client, lender, hasQueued)
  }

  get serverProcessId(): number {
    return present(this.#client.processID, 'connected')
  }

  /** One object for as long as the server's session lives, whoever borrows it. */
  get session(): object {
    return this.#client
  }

  get status(): TransactionStatus {
    if (this.#lost !== undefined || this.#released) return 'closed'
    const status = this.#client.getTransactionStatus()
    return status === 'T' ? 'open' : status === 'E' ? 'failed' : 'idle'
  }

  /**
   * Sends the statements at once and gives their outcomes in order. Resolves with refusals of the server as
   * outcomes; rejects only with `ConnectionLost`, or before anything was sent with a `TypeError` when a value
   * cannot be serialised. `onWritten` is called once the kernel has every byte of it: whoever dies there has sent it. The
   * answer waits for it, and it is left out only when the connection ends before.
   */
  async flight(
    statements: readonly Statement[],
    deadlineMs?: number,
    onWritten?: () => Promise<void>,
  ): Promise<StatementOutcome[]> {
    const wired = statements.map(serialise).map(withSyncPoint)
    if (onWritten === undefined) return this.#send(wired, deadlineMs)
    let told: Promise<unknown> | undefined
    const tell = () => {
      told ??= Promise.resolve().then(onWritten)
      // Waited for below, which may be later than it fails.
      told.catch(ignoreLateError)
      return told
    }
    try {
      const outcomes = await this.#send(wired, deadlineMs, tell)
      await tell()
      return outcomes
    } catch (error) {
      await Promise.allSettled([told])
      throw error
    }
  }

  /** One statement. Throws `ServerError` when it is refused. */
  async query<R = Row>(
    text: string,
    values: readonly unknown[] = [],
    deadlineMs?: number,
  ): Promise<StatementResult<R>> {
    const [outcome] = await this.flight([{ text, values }], deadlineMs)
    return accepted(present(outcome, 'one outcome a statement')) as StatementResult<R>
  }

  /** Several statements in one text without parameters, e.g. a migration. Throws the `ServerError` of the first refusal. */
  async script(text: string, deadlineMs?: number): Promise<void> {
    const [outcome] = await this.flight([{ text, script: true }], deadlineMs)
    accepted(present(outcome, 'one outcome a script'))
  }

  /** Calls back for every notification of a channel that this session listens to. For a connection of its own. */
  onNotification(notify: (channel: string) => void): void {
    this.#client.on('notification', ({ channel }) => notify(channel))
  }

  /** Gives the connection back. One that is inside a transaction, worn or lost is closed instead. */
  release(): void {
    if (this.#released) return
    if (this.#flights.length > 0) this.#lose(new Error('released by its owner before the answer'))
    const reusable = this.status === 'idle' && !this.#worn && !this.#hasTooManyStatements()
    this.#released = true
    this.#client.off('notice', this.#onNotice)
    this.#client.off('error', this.#onLost)
    this.#client.connection.off('readyForQuery', this.#onSync)
    this.#client.connection.off('copyInResponse', this.#onCopyIn)
    if (this.#lost === undefined) this.#lender.giveBack(reusable ? 'usable' : 'spent')
  }

  /** Breaks the connection off at once; what was sent may still take effect. */
  destroy(): void {
    this.#lose(new Error('destroyed by its owner'))
    this.release()
  }

  /** The same, for an answer that has taken all the time that it may. */
  giveUp(afterMs: number): void {
    this.#lose(new AnswerLate(`no answer within ${afterMs} ms`))
    this.release()
  }

  /** Flights that are sent inside leave in one write. They stay flights of their own. */
  inOneWrite<T>(send: () => T): T {
    const { stream } = this.#client.connection
    stream.cork()
    try {
      return send()
    } finally {
      stream.uncork()
    }
  }

  #send(
    statements: readonly WireStatement[],
    deadlineMs = this.#answerWithinMs,
    onWritten?: () => unknown,
  ): Promise<StatementOutcome[]> {
    if (this.#lost !== undefined || this.#released) {
      return Promise.reject(new ConnectionLost('the connection is closed', false, this.#lost))
    }
    if (statements.length === 0) return Promise.resolve([])
    return new Promise((resolve, reject) => {
      const late = () => this.#lose(new AnswerLate(`no answer within ${deadlineMs} ms`))
      const timer = deadlineMs === undefined ? undefined : setTimeout(late, deadlineMs)
      const wire = new WireFlight(statements, this.#onLost, onWritten)
      this.#flights.push({ wire, outcomes: [], resolve, reject, timer })
      // In one write: else the server could end in between, and what it answered would be lost with it.
      for (let count = wire.syncPoints; count > 0; count--) this.#client.query(wire)
    })
  }

  /** The server is done with everything up to a sync point. */
  readonly #onSync = () => {
    const [flight] = this.#flights
    if (this.#lost !== undefined || flight === undefined) return
    flight.outcomes.push(...flight.wire.synced().map((answer) => this.#toOutcome(answer)))
    if (!flight.wire.isAnswered) return
    this.#flights.shift()
    clearTimeout(flight.timer)
    flight.resolve(flight.outcomes)
  }

  #toOutcome(answer: WireAnswer): StatementOutcome {
    if (answer.kind === 'result') return { ok: true, ...answer.result }
    const error = new ServerError(answer.refusal)
    if (error.isOutdated) {
      this.#worn = true
      this.#lender.noteOutdated()
    }
    return { ok: false, error }
  }

  readonly #onLost = (error: Error) => this.#lose(error)

  readonly #onNotice = (notice: DriverNotice) => {
    const code = notice.code ?? sqlState.warning
    // The severity may come translated, the code does not: class 01, and 57P for a terminated wait.
    const warns = notice.severity === 'WARNING' || code.startsWith('01') || code.startsWith('57P')
    if (warns) this.#flights[0]?.wire.warn({ code, message: notice.message ?? '' })
  }

  /** In a pipeline the server takes what follows for the data and both sides wait for ever. */
  readonly #onCopyIn = () => this.#lose(new Error('COPY FROM STDIN cannot travel in a flight'))

  #lose(error: Error): void {
    if (this.#lost !== undefined || this.#released) return
    this.#lost = this.#flights[0]?.wire.refusal ?? error
    this.#client.on('error', ignoreLateError)
    this.#client.connection.stream.destroy()
    const unanswered = this.#flights.splice(0)
    for (const flight of unanswered) {
      clearTimeout(flight.timer)
      flight.reject(new ConnectionLost(this.#lost.message, true, this.#lost, flight.outcomes))
    }
    this.#lender.giveBack(unanswered.length > 0 ? 'unanswered' : 'spent')
  }

  #hasTooManyStatements(): boolean {
    return (this.#client.connection.memory?.names.size ?? 0) > statementsKeptMax
  }
}

interface DriverNotice {
  readonly code?: string | undefined
  readonly message?: string | undefined
  readonly severity?: string | undefined
}

/** The last statement of a flight has a sync point, and one before a script, which brings its own. */
function withSyncPoint(statement: WireStatement, index: number, all: readonly WireStatement[]): WireStatement {
  return statement.joined && all[index + 1]?.isScript !== false ? { ...statement, joined: false } : statement
}

/** A socket that is already given up may still report its end. */
function ignoreLateError(): void {}
