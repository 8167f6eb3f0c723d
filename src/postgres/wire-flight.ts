import pg from 'pg'
import { serialize } from 'pg-protocol'
import { present } from '../base/assert.ts'
import type { Row } from './statement.ts'
import type { DriverConnection, RowParser, Shape, StatementMemory, WireStatement } from './driver.ts'
import { nameOf } from './driver.ts'

/**
 * A flight on the wire: written as one block, and read message by message.
 *
 * The driver sends five messages a statement and asks each time what its columns are called. Here a statement that was
 * answered before is not described again, and statements that are `joined` share one sync point: the server answers them
 * in one write, and skips those behind the one that fails.
 *
 * The driver keeps its own order of queries; a flight stands in it once for each of its sync points.
 *
 * HAZARD: the columns of a prepared statement are fixed as long as it is prepared (PostgreSQL refuses to answer with
 * others), but only of one that is planned. What `fetch`, `call` or `show` answer depends on more than their text.
 */
export interface WireResult {
  readonly rows: Row[]
  readonly fields: readonly pg.FieldDef[]
  readonly rowCount: number
  readonly tag: string
  readonly warnings: readonly WireWarning[]
}

export interface WireWarning {
  readonly code: string
  readonly message: string
}

/** Of one statement. `skipped` was never run, because `refusal` met one that it was joined to. */
export type WireAnswer =
  | { readonly kind: 'result'; readonly result: WireResult }
  | { readonly kind: 'refused' | 'skipped'; readonly refusal: pg.DatabaseError }

const noColumns: Shape = { fields: [], parsers: [], template: {} }

/** The tags of statements whose columns depend on nothing but their text and the tables. */
const tagsOfFixedShape: ReadonlySet<string> = new Set(
  'SELECT INSERT UPDATE DELETE MERGE BEGIN COMMIT ROLLBACK SET RESET'.split(' '),
)

export class WireFlight {
  // The driver lets only its own queries share a pipeline, since others may hold a portal open. A flight holds none.
  static {
    Object.setPrototypeOf(WireFlight.prototype, pg.Query.prototype as object)
  }

  readonly #statements: readonly WireStatement[]
  readonly #onLost: (error: Error) => void
  readonly #onWritten: (() => void) | undefined
  readonly #described = new Set<number>()
  /** Empty for what is not kept prepared. */
  #names: readonly string[] = []
  #connection: DriverConnection | undefined
  /** The statement that is being answered. */
  #at = 0
  /** How many of them lie before the last sync point. */
  #synced = 0
  #results: WireResult[] = []
  #shape: Shape = noColumns
  #rows: Row[] = []
  #warnings: WireWarning[] = []
  #refusal: pg.DatabaseError | undefined

  /** `onWritten` is called when the kernel has every byte, and not when the connection ends before. */
  constructor(statements: readonly WireStatement[], onLost: (error: Error) => void, onWritten?: () => void) {
    this.#statements = statements
    this.#onLost = onLost
    this.#onWritten = onWritten
  }

  get syncPoints(): number {
    return this.#statements.filter(({ joined }) => !joined).length
  }

  get isAnswered(): boolean {
    return this.#synced === this.#statements.length
  }

  /** The server's error for the statement that it is answering, until the sync point confirms it. */
  get refusal(): pg.DatabaseError | undefined {
    return this.#refusal
  }

  warn(warning: WireWarning): void {
    this.#warnings.push(warning)
  }

  /** The answers up to the sync point that the server has just passed. */
  synced(): WireAnswer[] {
    const end = this.#statements.findIndex(({ joined }, index) => index >= this.#synced && !joined) + 1
    const results = this.#results
    const refusal = this.#refusal
    // A statement that was answered may still fail: outside a transaction it is committed at its sync point.
    const failedAt = Math.min(this.#at, end - 1)
    const answers: WireAnswer[] = []
    for (let index = this.#synced; index < end; index++) {
      const result = results[index - this.#synced]
      if (refusal !== undefined && index >= failedAt) {
        // What was skipped was not prepared either.
        delete this.#connection?.submittedNamedStatements[this.#names[index] ?? '']
        answers.push({ kind: index === failedAt ? 'refused' : 'skipped', refusal })
      } else {
        answers.push({ kind: 'result', result: present(result, 'a statement that was not refused has a result') })
      }
    }
    this.#synced = this.#at = end
    this.#results = []
    this.#refusal = undefined
    this.#begin()
    return answers
  }

  // From here on: what the driver calls.

  /** The statement being answered, of which the driver notes that it was prepared. */
  get name(): string {
    return this.#names[this.#at] ?? ''
  }

  get text(): string {
    return this.#statements[this.#at]?.text ?? ''
  }

  submit(connection: pg.Connection): void {
    if (this.#connection !== undefined) return
    // The types of the driver leave out which statements a connection has prepared.
    const known = connection as DriverConnection
    this.#connection = known
    known.memory ??= { names: new Map(), shapes: new Map(), runs: new Map() }
    const { memory } = known
    this.#names = this.#statements.map(({ text, isKept }) => (isKept ? nameOf(text, memory) : ''))
    this.#begin()
    const bytes: Buffer[] = []
    for (const [index, statement] of this.#statements.entries()) this.#serialise(known, memory, index, statement, bytes)
    if (!known.stream.writable) return
    // Flights that follow one another at once leave in one piece: each piece costs a call of the system, and wakes the server.
    known.stream.cork()
    known.stream.write(Buffer.concat(bytes), (error) => {
      if (!error) this.#onWritten?.()
    })
    process.nextTick(() => known.stream.uncork())
  }

  handleRowDescription({ fields }: { readonly fields: readonly pg.FieldDef[] }): void {
    this.#shape = toShape(fields, this.#statements[this.#at]?.types)
    this.#rows = []
  }

  handleDataRow({ fields }: { readonly fields: readonly (string | null)[] }): void {
    try {
      const inOrder = this.#statements[this.#at]?.rowMode === 'array'
      this.#rows.push(inOrder ? toArray(this.#shape, fields) : toRow(this.#shape, fields))
    } catch (error) {
      // A parser of the caller's threw: what it did not read is lost, and with it what comes behind.
      this.#onLost(error instanceof Error ? error : new Error(String(error)))
    }
  }

  handleCommandComplete({ text }: { readonly text: string }): void {
    const [tag = '', ...counts] = text.split(' ')
    const { isScript, isKept, joined, types } = present(this.#statements[this.#at], 'only what was sent is answered')
    const count = Number(counts.at(-1))
    const result: WireResult = {
      rows: this.#rows,
      fields: this.#shape.fields,
      rowCount: Number.isNaN(count) ? 0 : count,
      tag,
      warnings: this.#warnings,
    }
    if (isScript) {
      // The outcome of a script is that of its last command; warnings of all of them belong to it.
      this.#results = [result]
      this.#rows = []
      this.#shape = noColumns
      return
    }
    if (isKept && this.#described.has(this.#at) && tagsOfFixedShape.has(tag)) {
      this.#connection?.memory?.shapes.set(this.name, types === undefined ? this.#shape : toShape(this.#shape.fields))
    }
    this.#results.push(result)
    this.#at += 1
    // The last one before a sync point is warned until there: outside a transaction its commit comes behind its tag (HZ-S1).
    if (joined) this.#begin()
  }

  /** An empty text is answered so. */
  handleEmptyQuery(): void {
    this.handleCommandComplete({ text: '' })
  }

  handleError(error: Error): void {
    if (error instanceof pg.DatabaseError) this.#refusal = error
    else this.#onLost(error)
  }

  /** The connection hears of sync points and copies itself. */
  handleReadyForQuery(): void {}
  handleCopyInResponse(): void {}
  handleCopyData(): void {}
  handlePortalSuspended(): void {}

  /** Gets ready for the answer to the statement whose turn it is. */
  #begin(): void {
    this.#rows = []
    this.#warnings = []
    const shape = this.#connection?.memory?.shapes.get(this.name)
    const types = this.#statements[this.#at]?.types
    this.#shape = shape === undefined || types === undefined ? (shape ?? noColumns) : toShape(shape.fields, types)
  }

  #serialise(
    { parsedStatements, submittedNamedStatements }: DriverConnection,
    { shapes, runs }: StatementMemory,
    index: number,
    { text, values, isScript, joined }: WireStatement,
    bytes: Buffer[],
  ): void {
    if (isScript) {
      bytes.push(serialize.query(text))
      return
    }
    const name = this.#names[index] ?? ''
    if (name === '' || (parsedStatements[name] ?? submittedNamedStatements[name]) === undefined) {
      bytes.push(serialize.parse({ name, text }))
      if (name !== '') submittedNamedStatements[name] = text
    }
    const isKnown = shapes.has(name)
    if (!isKnown) this.#described.add(index)
    if (isKnown && values.length === 0) bytes.push(runOf(name, runs))
    else {
      bytes.push(serialize.bind({ statement: name, values: [...values] }))
      if (!isKnown) bytes.push(serialize.describe({ type: 'P' }))
      bytes.push(serialize.execute())
    }
    if (!joined) bytes.push(serialize.sync())
  }
}

function runOf(name: string, runs: Map<string, Buffer>): Buffer {
  const known = runs.get(name)
  if (known !== undefined) return known
  const run = Buffer.concat([serialize.bind({ statement: name }), serialize.execute()])
  runs.set(name, run)
  return run
}

function toShape(fields: readonly pg.FieldDef[], types?: pg.CustomTypesConfig): Shape {
  return {
    fields,
    parsers: fields.map(({ dataTypeID }) => parserOf(dataTypeID, types)),
    template: Object.fromEntries(fields.map(({ name }) => [name, null])),
  }
}

/** One of the caller's that cannot be had fails with the first row, as one that throws does: nobody would catch it here. */
function parserOf(dataTypeId: number, types: pg.CustomTypesConfig = pg.types): RowParser {
  try {
    return types.getTypeParser(dataTypeId, 'text') as RowParser
  } catch (error) {
    return () => {
      throw error
    }
  }
}

function toRow({ fields, parsers, template }: Shape, values: readonly (string | null)[]): Row {
  const row: Row = { ...template }
  for (const [index, value] of values.entries()) {
    const field = present(fields[index], 'a column has a name')
    if (value !== null) row[field.name] = parsers[index]?.(value)
  }
  return row
}

/** The type of rows is that of objects; who asks for arrays knows. */
function toArray({ parsers }: Shape, values: readonly (string | null)[]): Row {
  const row: unknown = values.map((value, index) => (value === null ? null : parsers[index]?.(value)))
  return row as Row
}
