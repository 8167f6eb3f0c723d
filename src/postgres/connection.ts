import { createHash } from 'node:crypto'
import pg from 'pg'
import { prepareValue } from 'pg/lib/utils.js'
import { present } from '../base/assert.ts'
import { sqlState } from './sqlstate.ts'

/**
 * One connection to one server, over which statements travel in flights.
 *
 * A flight is a list of statements written at once and answered in order: it costs one round trip. PostgreSQL
 * gives each statement of a pipeline its own sync point, which makes four things easy to get wrong:
 *
 *   D1  Values are serialised before the first byte is written, so no statement can fail on the client while
 *       a `COMMIT` behind it is already on its way.
 *   D2  Statement names are a hash of the text, so a name can never be reused with another text.
 *   D3  A failed statement does not stop those behind it. The caller reads every outcome, and a commit only
 *       counts when its command tag says so: `COMMIT` in an aborted transaction succeeds with tag `ROLLBACK`.
 *   D4  A flight that gets no answer in time closes the connection and rejects with `ConnectionLost`. What was
 *       sent may still take effect: the outcome is unknown.
 *
 * HAZARD: a wait for synchronous followers that is cancelled or terminated answers success and a warning.
 * Warnings are therefore part of a statement's outcome.
 */

export interface ConnectionTarget {
  /** A socket directory (starts with `/`) or a host name. */
  readonly host: string
  readonly port: number
  readonly user: string
  readonly password: string
  readonly database: string
  readonly applicationName: string
}

export interface Statement {
  readonly text: string
  readonly values?: readonly unknown[]
  /** Rows as arrays in column order instead of objects. */
  readonly rowMode?: 'array'
  /** Type parsers of the caller, as `pg` takes them. */
  readonly types?: pg.CustomTypesConfig
}

export type Row = Record<string, unknown>

export interface StatementResult<R = Row> {
  readonly ok: true
  readonly rows: R[]
  readonly fields: readonly pg.FieldDef[]
  readonly rowCount: number
  /** The first word of the command tag: `SELECT`, `COMMIT`, `ROLLBACK`, `PREPARE`, ... */
  readonly tag: string
  readonly warnings: readonly { readonly code: string; readonly message: string }[]
}

export interface StatementFailure {
  readonly ok: false
  readonly error: ServerError
}

export type StatementOutcome<R = Row> = StatementResult<R> | StatementFailure

/** PostgreSQL refused one statement. */
export class ServerError extends Error {
  readonly sqlState: string
  readonly detail: string | undefined
  readonly hint: string | undefined
  readonly constraint: string | undefined
  readonly table: string | undefined

  constructor(cause: pg.DatabaseError) {
    super(cause.message, { cause })
    this.name = 'ServerError'
    this.sqlState = cause.code ?? 'XX000'
    this.detail = cause.detail
    this.hint = cause.hint
    this.constraint = cause.constraint
    this.table = cause.table
  }
}

/** The connection ended or went silent. `sent` tells whether the statements may have reached the server. */
export class ConnectionLost extends Error {
  readonly sent: boolean

  constructor(message: string, sent: boolean, cause?: unknown) {
    super(message, { cause })
    this.name = 'ConnectionLost'
    this.sent = sent
  }
}

export type TransactionStatus = 'idle' | 'open' | 'failed' | 'closed'

interface InFlight {
  readonly outcomes: StatementOutcome[]
  warnings: { code: string; message: string }[]
}

export class Connection {
  readonly #client: pg.Client
  readonly #release: (broken: boolean) => void
  readonly #pending: InFlight[] = []
  #lost: Error | undefined
  #released = false

  private constructor(client: pg.Client, release: (broken: boolean) => void) {
    this.#client = client
    this.#release = release
    client.on('notice', this.#onNotice)
    client.on('error', this.#onError)
  }

  /** A connection of its own, ended by `release`. Rejects with `ConnectionLost` (not sent) or `ServerError`. */
  static async connect(target: ConnectionTarget, connectWithinMs: number): Promise<Connection> {
    const client = new pg.Client(clientConfig(target, connectWithinMs))
    client.on('error', ignoreLateError)
    try {
      await client.connect()
    } catch (error) {
      throw connectFailure(error, target)
    }
    return new Connection(client, () => void client.end().catch(ignoreLateError))
  }

  /** Takes over a pooled client until `release`. */
  static borrow(client: pg.PoolClient): Connection {
    return new Connection(client, (broken) => client.release(broken))
  }

  get serverProcessId(): number {
    return present((this.#client as pg.Client & { processID: number | null }).processID, 'connected')
  }

  get status(): TransactionStatus {
    if (this.#lost !== undefined || this.#released) return 'closed'
    const status = this.#client.getTransactionStatus()
    return status === 'T' ? 'open' : status === 'E' ? 'failed' : 'idle'
  }

  /**
   * Sends the statements at once and gives their outcomes in order. Resolves with refusals of the server as
   * outcomes; rejects only with `ConnectionLost`, or with a `TypeError` before anything was sent when a value
   * cannot be serialised.
   */
  flight(statements: readonly Statement[], deadlineMs?: number): Promise<StatementOutcome[]> {
    const prepared = statements.map(serialise)
    if (this.#lost !== undefined || this.#released) {
      return Promise.reject(new ConnectionLost('the connection is closed', false, this.#lost))
    }
    const { promise, resolve, reject } = withResolvers<StatementOutcome[]>()
    const current: InFlight = { outcomes: [], warnings: [] }
    this.#pending.push(current)
    let timer: NodeJS.Timeout | undefined
    const fail = (error: Error) => {
      clearTimeout(timer)
      this.#lose(error)
      reject(new ConnectionLost(error.message, true, error))
    }
    if (deadlineMs !== undefined) {
      timer = setTimeout(() => fail(new Error(`no answer within ${deadlineMs} ms`)), deadlineMs)
    }
    for (const statement of prepared) {
      this.#client.query(statement, (error: Error | null, result: pg.QueryResult) => {
        if (error !== null && !(error instanceof pg.DatabaseError)) return fail(error)
        current.outcomes.push(toOutcome(error, result, current.warnings))
        current.warnings = []
        if (error !== null && endsSession(error.code)) this.#lose(error)
        if (current.outcomes.length < prepared.length) return undefined
        clearTimeout(timer)
        this.#pending.splice(this.#pending.indexOf(current), 1)
        return resolve(current.outcomes)
      })
    }
    return promise
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
  async script(text: string): Promise<void> {
    if (this.status === 'closed') throw new ConnectionLost('the connection is closed', false, this.#lost)
    try {
      await this.#client.query(text)
    } catch (error) {
      if (error instanceof pg.DatabaseError) throw new ServerError(error)
      throw new ConnectionLost('the connection ended in a script', true, error)
    }
  }

  /** Gives the connection back. One that is inside a transaction, or lost, is closed instead. */
  release(): void {
    if (this.#released) return
    const clean = this.status === 'idle' && this.#pending.length === 0
    this.#released = true
    this.#client.off('notice', this.#onNotice)
    this.#client.off('error', this.#onError)
    if (this.#lost === undefined) this.#release(!clean)
  }

  /** Breaks the connection off at once; what was sent may still take effect. */
  destroy(): void {
    this.#lose(new Error('destroyed by its owner'))
    this.#released = true
  }

  readonly #onNotice = (notice: {
    code?: string | undefined
    message?: string | undefined
    severity?: string | undefined
  }) => {
    if (notice.severity === 'WARNING') {
      this.#pending[0]?.warnings.push({ code: notice.code ?? sqlState.warning, message: notice.message ?? '' })
    }
  }

  readonly #onError = (error: Error) => this.#lose(error)

  #lose(error: Error): void {
    if (this.#lost !== undefined) return
    this.#lost = error
    this.#client.on('error', ignoreLateError)
    const { stream } = (this.#client as pg.Client & { connection: { stream: { destroy(): void } } }).connection
    stream.destroy()
    if (!this.#released) this.#release(true)
  }
}

/** The result of a statement that must have been accepted; throws its `ServerError` otherwise. */
export function accepted(outcome: StatementOutcome): StatementResult {
  if (!outcome.ok) throw outcome.error
  return outcome
}

export function clientConfig(target: ConnectionTarget, connectWithinMs: number): pg.ClientConfig & { pipeline: true } {
  return {
    host: target.host,
    port: target.port,
    user: target.user,
    password: target.password,
    database: target.database,
    application_name: target.applicationName,
    connectionTimeoutMillis: connectWithinMs,
    pipeline: true,
  }
}

/** A failure to connect: nothing was sent. A refusal by the server keeps its SQLSTATE. */
export function connectFailure(error: unknown, target: ConnectionTarget): Error {
  if (error instanceof pg.DatabaseError) return new ServerError(error)
  return new ConnectionLost(`cannot connect to ${target.host}:${target.port}`, false, error)
}

function serialise(statement: Statement): pg.QueryConfig & { queryMode: 'extended' } {
  const values = (statement.values ?? []).map((value) => prepareValue(value))
  return {
    text: statement.text,
    values,
    name: createHash('sha256').update(statement.text).digest('base64url').slice(0, 22),
    queryMode: 'extended',
    ...(statement.rowMode === undefined ? {} : { rowMode: statement.rowMode }),
    ...(statement.types === undefined ? {} : { types: statement.types }),
  }
}

function toOutcome(
  error: pg.DatabaseError | null,
  result: pg.QueryResult,
  warnings: StatementResult['warnings'],
): StatementOutcome {
  if (error !== null) return { ok: false, error: new ServerError(error) }
  return {
    ok: true,
    rows: result.rows,
    fields: result.fields,
    rowCount: result.rowCount ?? 0,
    tag: result.command ?? '',
    warnings,
  }
}

/** FATAL answers that PostgreSQL sends just before it ends the session. */
function endsSession(code: string | undefined): boolean {
  return code === sqlState.adminShutdown || code === sqlState.crashShutdown || code === sqlState.cannotConnectNow
}

/** A socket that is already given up may still report its end. */
function ignoreLateError(): void {}

function withResolvers<T>() {
  let resolve: (value: T) => void = () => {}
  let reject: (reason: unknown) => void = () => {}
  const promise = new Promise<T>((res, rej) => {
    resolve = res
    reject = rej
  })
  return { promise, resolve, reject }
}
