import type pg from 'pg'
import type { ServerError } from './failure.ts'

/** What travels to a server, and what comes back of it. */

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
  /** Several commands in one text without values; the outcome is that of the last one, or of the one that failed. */
  readonly script?: true
  /** Rows as arrays in column order instead of objects. */
  readonly rowMode?: 'array'
  /** Type parsers of the caller, as `pg` takes them. */
  readonly types?: pg.CustomTypesConfig
  /** The text is never sent again, e.g. because a name is part of it: the server does not keep it prepared. */
  readonly once?: true
  /** Shares the sync point of the statement behind it in the flight, which is skipped when this one fails (D6). */
  readonly joined?: true
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

/** The result of a statement that must have been accepted; throws its `ServerError` otherwise. */
export function accepted(outcome: StatementOutcome): StatementResult {
  if (!outcome.ok) throw outcome.error
  return outcome
}
