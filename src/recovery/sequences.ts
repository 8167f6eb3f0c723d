import type { RedoTransaction, RelationName } from '../archive/redo-transaction.ts'
import type { Connection } from '../postgres/connection.ts'
import type { Shapes } from './row-key.ts'
import type { Drawing, DrawingColumn } from './sequence-store.ts'
import { moveSequence, readDrawing } from './sequence-store.ts'

/**
 * Moves every sequence past all that its columns hold and that the stream has shown in them (HZ-R1). What was drawn is read from
 * the values: from numbers as they are, from texts as the digits that they end with. Returns the columns whose values do
 * not say it: their sequences stay where the physical replay left them.
 */
export async function moveSequences(admin: Connection, read: () => Transactions, shapes: Shapes): Promise<string[]> {
  const left: string[] = []
  const drawn: Drawn[] = []
  for (const [relation, { columns }] of shapes) {
    for (const { name, sequence } of columns) {
      if (sequence === null) continue
      const column = { relation, name, sequence }
      const drawing = await readDrawing(admin, column)
      if (drawing === null) continue
      if (drawing.shows === 'opaque') left.push(`${relation}.${name}`)
      else drawn.push({ column, drawing, highest: null })
    }
  }
  if (drawn.length > 0) await findHighest(read(), drawn)
  for (const { column, drawing, highest } of drawn) await moveSequence(admin, column, drawing, highest)
  return left
}

type Transactions = AsyncIterable<Pick<RedoTransaction, 'changes'>>

interface Drawn {
  readonly column: DrawingColumn
  readonly drawing: Drawing
  highest: bigint | null
}

async function findHighest(transactions: Transactions, drawn: readonly Drawn[]): Promise<void> {
  const byRelation = new Map<RelationName, Drawn[]>()
  for (const one of drawn) {
    byRelation.set(one.column.relation, [...(byRelation.get(one.column.relation) ?? []), one])
  }
  for await (const { changes } of transactions) {
    for (const change of changes) {
      if (change.op === 'truncate' || change.op === 'delete') continue
      for (const one of byRelation.get(change.relation) ?? []) {
        const value = drawnIn(change.after[one.column.name] ?? '', one.drawing)
        if (value !== null && (one.highest === null || value > one.highest)) one.highest = value
      }
    }
  }
}

/** The number that a value was made of; null when it shows none that the sequence can draw. */
function drawnIn(text: string, { shows, least, greatest }: Drawing): bigint | null {
  // A numeric of some scale has zeros behind the point; char(n) has blanks at its end.
  const digits = (shows === 'number' ? /^(-?\d+)(?:\.\d+)?$/ : /(\d+) *$/).exec(text)?.[1]
  if (digits === undefined) return null
  const value = BigInt(digits)
  return value >= least && value <= greatest ? value : null
}
