import type { RelationName, RowChange, RowImage } from '../archive/redo-transaction.ts'
import { assert, present } from '../base/assert.ts'
import { quoteRelation, quoteIdentifier } from '../postgres/identifier.ts'
import type { RedoStep } from './cut.ts'
import type { Shapes } from './row-key.ts'
import { imagesOf, isApplicationRelation } from './row-key.ts'

/**
 * Row changes as statements.
 *
 * Names are quoted by one function and values travel as parameters, in the text form in which they were decoded;
 * PostgreSQL takes the type of each from its column. A change counts only when it found the row exactly as it was:
 * every column of the before image is compared, by its text form, which every type has. A comparison by `=` would
 * refuse `json`, and would take `1.0` for `1.00`.
 */
export interface RedoStatement {
  readonly text: string
  readonly values: readonly (string | null)[]
  /** How many rows it must affect; null when any number will do. */
  readonly rows: 1 | null
  /** The relation, for messages. */
  readonly relation: RelationName
}

/**
 * Settings of a session that redoes: no trigger, no foreign key check (they are validated afterwards), and the same
 * text forms as the decoder's.
 */
export const redoSettings: Readonly<Record<string, string>> = {
  session_replication_role: 'replica',
  datestyle: 'ISO, MDY',
  intervalstyle: 'postgres',
  timezone: 'UTC',
  extra_float_digits: '1',
  bytea_output: 'hex',
  xmloption: 'content',
  search_path: 'pg_catalog',
  lock_timeout: '0',
  statement_timeout: '0',
}

export function planRedo({ transaction, changes }: RedoStep, shapes: Shapes): RedoStatement[] {
  // What the platform cleans up by itself it may have cleaned up already, or it may serve a transaction that was left out.
  const exact = transaction.identity.kind !== 'platform'
  return changes
    .filter((change) => !isCollection(change))
    .map((change) => statementOf(change, shapes, exact || isApplicationRelation(change.relation)))
}

/**
 * What was collected is kept: the watermark that it lies below is not in the stream, and above the watermark of the restored
 * shard the absence of a record would read as a transaction that was never decided, that of a key as one that was never used.
 * It is collected again.
 */
function isCollection(change: RowChange): boolean {
  return change.op === 'delete' && collected.has(change.relation)
}

const collected: ReadonlySet<string> = new Set([
  'holdfast.transaction_record',
  'holdfast.decision',
  'holdfast.idempotency',
])

function statementOf(change: RowChange, shapes: Shapes, exact: boolean): RedoStatement {
  const { relation } = change
  const rows = exact ? 1 : null
  const table = quoteRelation(relation)
  const { before, after } = imagesOf(change)
  const parameters = new Parameters()
  if (before === null && after === null) return { text: `delete from ${table}`, values: [], rows: null, relation }
  if (before === null) {
    const columns = Object.entries(present(after, 'an insert has a row'))
    const names = columns.map(([name]) => quoteIdentifier(name)).join(', ')
    const places = columns.map(([, value]) => parameters.add(value)).join(', ')
    const values = columns.length === 0 ? 'default values' : `(${names}) overriding system value values (${places})`
    const text = `insert into ${table} ${values}${onConflict(change, columns, exact)}`
    return { text, values: parameters.values, rows, relation }
  }
  const key = keyOfRow(shapes.get(relation)?.primaryKey ?? [], before)
  if (after === null) {
    const text = `delete from ${table} where ${condition(table, key, before, parameters)}`
    return { text, values: parameters.values, rows, relation }
  }
  const assignments = Object.entries(after)
    .filter(([name, value]) => before[name] !== value)
    .map(([name, value]) => `${quoteIdentifier(name)} = ${parameters.add(value)}`)
  const where = condition(table, key, before, parameters)
  // An update that changed nothing still requires its row.
  const text =
    assignments.length === 0
      ? `select from ${table} where ${where}`
      : `update ${table} set ${assignments.join(', ')} where ${where}`
  return { text, values: parameters.values, rows, relation }
}

/** A key that was collected and then used again meets the row of its earlier use, which was kept: the later one stands. */
function onConflict({ relation }: RowChange, columns: readonly [string, string | null][], exact: boolean): string {
  if (relation !== 'holdfast.idempotency') return exact ? '' : ' on conflict do nothing'
  const assignments = columns.map(([name]) => `${quoteIdentifier(name)} = excluded.${quoteIdentifier(name)}`)
  return ` on conflict (tenant, key) do update set ${assignments.join(', ')}`
}

/** A table whose key has changed since had another when the row was written: without it all columns find the row. */
function keyOfRow(key: readonly string[], before: RowImage): readonly string[] {
  return key.every((name) => Object.hasOwn(before, name)) ? key : []
}

/** Finds the one row of a before image: by its key where there is one, and only if it is as it was. */
function condition(table: string, key: readonly string[], before: RowImage, parameters: Parameters): string {
  const columns = Object.entries(before)
  assert(columns.length > 0, 'a before image has columns')
  const byKey = key.map((name) => `${quoteIdentifier(name)} = ${parameters.add(before[name] ?? null)}`)
  const asItWas = columns.map(([name, value]) => equals(quoteIdentifier(name), value, parameters))
  if (key.length > 0) return [...byKey, ...asItWas].join(' and ')
  // Equal rows without a key cannot be told apart; the change was to one of them.
  return `ctid = (select ctid from ${table} where ${asItWas.join(' and ')} limit 1)`
}

/**
 * Compares by the output function of the type, which is what decoding wrote. A cast to text has other forms for some
 * types: `true` for `t`, an address with its mask, a padded string without its padding.
 */
function equals(column: string, value: string | null, parameters: Parameters): string {
  if (value === null) return `${column} is null`
  return `${column} is not null and format('%s', ${column}) = ${parameters.add(value)}`
}

class Parameters {
  readonly values: (string | null)[] = []

  add(value: string | null): string {
    this.values.push(value)
    return `$${this.values.length}`
  }
}
