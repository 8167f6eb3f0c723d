import { isPlatformRelation } from '../archive/redo-transaction.ts'
import type { ForeignKey, RelationName, RelationShape, RowChange, RowImage } from '../archive/redo-transaction.ts'

/** What identifies a row or a row that is referred to: a relation and the values of some of its columns. */
export type RowKey = string

export type Shapes = ReadonlyMap<RelationName, RelationShape>

/** Everything of the platform's own follows its transaction; conflicts are between rows of the application. */
export function isApplicationRelation(relation: RelationName): boolean {
  return !isPlatformRelation(relation)
}

/** The key of a row: its primary key; without one, all of it. */
export function keyOf(relation: RelationName, row: RowImage, shape: RelationShape | undefined): RowKey {
  const columns = shape === undefined || shape.primaryKey.length === 0 ? Object.keys(row).sort() : shape.primaryKey
  return formatKey(
    relation,
    columns,
    columns.map((column) => row[column] ?? null),
  )
}

/** The row that a foreign key of this row refers to; null when one of its columns is. */
export function referencedKey(foreignKey: ForeignKey, row: RowImage): RowKey | null {
  const values = foreignKey.columns.map((column) => row[column] ?? null)
  if (values.includes(null)) return null
  return formatKey(foreignKey.references, foreignKey.referencedColumns, values)
}

/** The same key, made from the row that is referred to. */
export function referableKey(foreignKey: ForeignKey, parent: RowImage): RowKey {
  const { references, referencedColumns } = foreignKey
  return formatKey(
    references,
    referencedColumns,
    referencedColumns.map((column) => parent[column] ?? null),
  )
}

/** Column order must not matter: a foreign key may list the columns of a primary key in another one. */
function formatKey(relation: RelationName, columns: readonly string[], values: readonly (string | null)[]): RowKey {
  const pairs = columns.map((column, index) => [column, values[index] ?? null] as const)
  pairs.sort(([a], [b]) => (a < b ? -1 : 1))
  return `${relation}(${pairs.map(([column, value]) => `${column}=${JSON.stringify(value)}`).join(', ')})`
}

/** The rows before and after a change; null where there is none. */
export function imagesOf(change: RowChange): { before: RowImage | null; after: RowImage | null } {
  switch (change.op) {
    case 'insert':
      return { before: null, after: change.after }
    case 'update':
      return { before: change.before, after: change.after }
    case 'delete':
      return { before: change.before, after: null }
    case 'truncate':
      return { before: null, after: null }
  }
}

/** The keys that a change touches: its rows, and the rows that they refer to. */
export function touchedKeys(change: RowChange, shapes: Shapes): RowKey[] {
  const shape = shapes.get(change.relation)
  const { before, after } = imagesOf(change)
  return [before, after].flatMap((row) => {
    if (row === null) return []
    const referenced = (shape?.foreignKeys ?? []).flatMap((foreignKey) => referencedKey(foreignKey, row) ?? [])
    return [keyOf(change.relation, row, shape), ...referenced]
  })
}

export function sameRow(a: RowImage | null, b: RowImage | null): boolean {
  if (a === null || b === null) return a === b
  const columns = new Set([...Object.keys(a), ...Object.keys(b)])
  return [...columns].every((column) => (a[column] ?? null) === (b[column] ?? null))
}
