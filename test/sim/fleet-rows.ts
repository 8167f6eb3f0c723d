import type { RelationShape, RowChange, RowImage } from '../../src/archive/redo-transaction.ts'
import { present } from '../../src/base/assert.ts'

/** Two tables of a shard in memory, one referring to the other, and changes of their rows. */
export type Rows = ReadonlyMap<string, RowImage>

export const accounts = 'public.accounts'
export const holds = 'public.holds'
const accountCount = 3
const holdCount = 4

export const shapes: ReadonlyMap<string, RelationShape> = new Map([
  [accounts, shape('accounts', ['id', 'cents'], [])],
  [
    holds,
    shape(
      'holds',
      ['id', 'account', 'cents'],
      [{ name: 'holds_account', columns: ['account'], references: accounts, referencedColumns: ['id'] }],
    ),
  ],
])

/** A change that is valid on these rows; null when the choice names none. */
export function chooseChange(rows: Rows, choice: number): RowChange | null {
  const isHold = choice % 3 !== 0
  const id = String(Math.trunc(choice / 3) % (isHold ? holdCount : accountCount))
  const relation = isHold ? holds : accounts
  const row = rows.get(`${relation} ${id}`)
  const cents = String(choice % 101)
  const account = String(Math.trunc(choice / 64) % accountCount)
  if (row === undefined) {
    if (isHold && !rows.has(`${accounts} ${account}`)) return null
    return { op: 'insert', relation, after: isHold ? { id, account, cents } : { id, cents } }
  }
  if (choice % 4 === 0) {
    const isReferred = [...rows].some(([key, hold]) => key.startsWith(holds) && hold['account'] === id)
    return !isHold && isReferred ? null : { op: 'delete', relation, before: row }
  }
  const moved = isHold && choice % 7 === 0 && rows.has(`${accounts} ${account}`) ? { account } : {}
  return { op: 'update', relation, before: row, after: { ...row, cents, ...moved } }
}

/** Applies a change as a redo does: only onto the row as it was. */
export function applyChange(rows: Map<string, RowImage>, change: RowChange): void {
  if (change.op === 'truncate') throw new Error('no truncate in this model')
  const before = change.op === 'insert' ? undefined : change.before
  const after = change.op === 'delete' ? undefined : change.after
  const image = present(after ?? before, 'a change has an image')
  const key = `${change.relation} ${image['id'] ?? image['transaction_id']}`
  if (JSON.stringify(rows.get(key)) !== JSON.stringify(before)) throw new Error(`${key} is not as it was`)
  if (after === undefined) rows.delete(key)
  else rows.set(key, after)
}

/** Throws when a hold refers to an account that is not there. */
export function requireReferences(rows: Rows): void {
  for (const [key, row] of rows) {
    if (key.startsWith(holds) && !rows.has(`${accounts} ${row['account']}`)) throw new Error(`${key} refers to nothing`)
  }
}

/** The row that a change locks, and the rows that it refers to and thereby shares. */
export function lockKeys(change: RowChange): { row: string; parents: string[] } {
  const images = [
    change.op === 'insert' || change.op === 'truncate' ? [] : [change.before],
    change.op === 'delete' || change.op === 'truncate' ? [] : [change.after],
  ].flat()
  const parents = change.relation === holds ? images.map((image) => `${accounts} ${image['account']}`) : []
  return { row: `${change.relation} ${images[0]?.['id']}`, parents }
}

function shape(table: string, columns: readonly string[], foreignKeys: RelationShape['foreignKeys']): RelationShape {
  return {
    schema: 'public',
    table,
    columns: columns.map((name) => ({ name, type: 'bigint', sequence: null })),
    replicaIdentity: 'full',
    primaryKey: ['id'],
    foreignKeys,
  }
}
