import { hash } from 'node:crypto'
import type pg from 'pg'
import { prepareValue } from 'pg/lib/utils.js'
import type { ConnectionTarget, Row, Statement } from './statement.ts'

/** What the driver is given, and the parts of it that its types leave out. */

export type DriverClient = pg.Client & {
  readonly processID: number | null
  readonly connection: DriverConnection
}

export type DriverConnection = pg.Connection & {
  /** By name, their texts: what the server has prepared, and what it was sent to prepare. */
  readonly parsedStatements: Record<string, string>
  readonly submittedNamedStatements: Record<string, string>
  /** Kept here because it is true for as long as the connection is. */
  memory?: StatementMemory
}

/** What is known of the statements of one connection. */
export interface StatementMemory {
  /** By text; hashing one costs more than finding it. */
  readonly names: Map<string, string>
  /** By name, how the rows of what was answered before are read. */
  readonly shapes: Map<string, Shape>
  /** By name, what runs a statement that takes no values and needs no description: always the same bytes. */
  readonly runs: Map<string, Buffer>
}

export type RowParser = (value: string) => unknown

export interface Shape {
  readonly fields: readonly pg.FieldDef[]
  readonly parsers: readonly RowParser[]
  /** Every column in order, so that rows of one statement have one form. */
  readonly template: Readonly<Row>
}

/** A statement whose values are bytes and strings. */
export interface WireStatement {
  readonly text: string
  readonly isKept: boolean
  readonly values: readonly (string | Buffer | null)[]
  /** Goes by the simple protocol, which takes several commands; all others by the extended one, which takes one. */
  readonly isScript: boolean
  readonly joined: boolean
  readonly rowMode?: 'array'
  readonly types?: pg.CustomTypesConfig
}

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
    // A role or database set to `error` would hide the warning that turns a commit into an unknown outcome, and another
    // style or fewer digits would change values: whoever reads their text knows but one form.
    options: '-c client_min_messages=warning -c DateStyle=ISO -c IntervalStyle=postgres -c extra_float_digits=1',
    pipeline: true,
  }
}

/** Turns a statement into bytes and strings. Throws a `TypeError` for what cannot be sent. */
export function serialise(statement: Statement): WireStatement {
  const { text, values = [] } = statement
  // The wire format ends a text at a zero byte: the rest of it would be read as another message.
  if (text.includes('\0')) throw new TypeError('a statement cannot contain a zero byte')
  const isScript = statement.script === true
  if (isScript && values.length > 0) throw new TypeError('a script takes no values')
  if (values.length > valuesMax) throw new TypeError(`a statement has at most ${valuesMax} values`)
  return {
    text,
    isKept: !isScript && statement.once !== true,
    values: values.map((value) => prepareValue(value)),
    isScript,
    joined: statement.joined === true,
    ...(statement.rowMode === undefined ? {} : { rowMode: statement.rowMode }),
    ...(statement.types === undefined ? {} : { types: statement.types }),
  }
}

/** D2: a name is a hash of its text. */
export function nameOf(text: string, { names }: StatementMemory): string {
  const known = names.get(text)
  if (known !== undefined) return known
  const name = hash('sha256', text, 'base64url').slice(0, 22)
  names.set(text, name)
  return name
}
