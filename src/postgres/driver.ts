import { hash } from 'node:crypto'
import type pg from 'pg'
import { prepareValue } from 'pg/lib/utils.js'
import type { ConnectionTarget, Statement } from './connection.ts'

/** What the driver is given, and the parts of it that its types leave out. */

export type DriverClient = pg.Client & {
  readonly processID: number | null
  readonly connection: pg.Connection & { readonly parsedStatements: Readonly<Record<string, string>> }
}

/** The types of the driver leave out its mode. */
export type WireStatement = pg.QueryConfig & { readonly queryMode?: 'extended' }

/** The protocol counts parameters in 16 bits, and the driver writes what overflows without a word. */
const valuesMax = 65_535

export function clientConfig(target: ConnectionTarget, connectWithinMs: number): pg.ClientConfig & { pipeline: true } {
  return {
    host: target.host,
    port: target.port,
    user: target.user,
    password: target.password,
    database: target.database,
    application_name: target.applicationName,
    connectionTimeoutMillis: connectWithinMs,
    // Given, so that PGSSLMODE and PGOPTIONS of the environment decide nothing.
    ssl: false,
    // A role or database set to `error` would hide the warning that turns a commit into an unknown outcome.
    options: '-c client_min_messages=warning',
    pipeline: true,
  }
}

/** Turns a statement into bytes and strings. Throws a `TypeError` for what cannot be sent. */
export function serialise(statement: Statement): WireStatement {
  const { text, values = [] } = statement
  // The wire format ends a text at a zero byte: the rest of it would be read as another message.
  if (text.includes('\0')) throw new TypeError('a statement cannot contain a zero byte')
  if (statement.script === true) {
    if (values.length > 0) throw new TypeError('a script takes no values')
    return { text }
  }
  if (values.length > valuesMax) throw new TypeError(`a statement has at most ${valuesMax} values`)
  return {
    text,
    values: values.map((value) => prepareValue(value)),
    // Both ways are the extended protocol, in which a text holds one statement: `select 1; commit` is refused.
    ...(statement.once === true ? { queryMode: 'extended' as const } : { name: nameOf(text) }),
    ...(statement.rowMode === undefined ? {} : { rowMode: statement.rowMode }),
    ...(statement.types === undefined ? {} : { types: statement.types }),
  }
}

function nameOf(text: string): string {
  return hash('sha256', text, 'base64url').slice(0, 22)
}
