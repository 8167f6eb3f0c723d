import { assert, present } from '../base/assert.ts'
import type { Lsn } from '../postgres/lsn.ts'
import type { PgoutputMessage, RelationMessage, Tuple } from './pgoutput.ts'
import type { RelationShape, RowChange, RowImage } from './redo-transaction.ts'
import { relationName } from './redo-transaction.ts'
import { toImage } from './row-image.ts'

/** A transaction as it was decoded, before it is known whose it is. */
export interface DecodedTransaction {
  readonly commitLsn: Lsn
  readonly endLsn: Lsn
  readonly xid: number
  readonly committedAtMs: number
  readonly changes: readonly RowChange[]
  /** The shape of the relation of each change, when it was made (A7). */
  readonly shapes: readonly RelationShape[]
}

/** Puts the messages of the output plugin together to transactions. */
export class RedoAssembly {
  readonly #relations = new Map<number, Relation>()
  #open: { commitLsn: Lsn; xid: number; committedAtMs: number } | undefined
  #changes: RowChange[] = []
  #shapes: RelationShape[] = []

  /** How a relation looks from here on; rows of it may follow. */
  learn({ id, columns }: RelationMessage, shape: RelationShape): void {
    const key = columns.flatMap((column) => (column.isKey ? [column.name] : []))
    this.#relations.set(id, { shape, key })
  }

  /** The transaction, when the message is the commit of one. */
  take(message: PgoutputMessage): DecodedTransaction | undefined {
    switch (message.kind) {
      case 'begin':
        assert(this.#open === undefined, 'a transaction begins after the one before has ended')
        this.#open = message
        return undefined
      case 'commit':
        return this.#commit(message.commitLsn, message.endLsn)
      case 'insert': {
        const { shape } = this.#relation(message.relationId)
        return this.#add({ op: 'insert', relation: relationName(shape), after: toImage(shape, message.after) }, shape)
      }
      case 'update':
        return this.#update(message.relationId, message.before, message.after)
      case 'delete': {
        const { shape, key } = this.#relation(message.relationId)
        const before = oldImage(shape, key, message.before)
        return this.#add({ op: 'delete', relation: relationName(shape), before }, shape)
      }
      case 'truncate':
        for (const relationId of message.relationIds) {
          const { shape } = this.#relation(relationId)
          this.#add({ op: 'truncate', relation: relationName(shape) }, shape)
        }
        return undefined
      case 'relation':
      case 'message':
      case 'other':
        return undefined
    }
  }

  #commit(commitLsn: Lsn, endLsn: Lsn): DecodedTransaction {
    const begun = present(this.#open, 'a commit ends a transaction')
    assert(begun.commitLsn === commitLsn, 'begin and commit name the same commit record')
    const { xid, committedAtMs } = begun
    const decoded = { commitLsn, endLsn, xid, committedAtMs, changes: this.#changes, shapes: this.#shapes }
    this.#open = undefined
    this.#changes = []
    this.#shapes = []
    return decoded
  }

  #update(relationId: number, old: Tuple | null, tuple: Tuple): undefined {
    const { shape, key } = this.#relation(relationId)
    const written = toImage(shape, tuple)
    // Without an old row the key did not change.
    const before = old === null ? pick(written, key) : oldImage(shape, key, old)
    // A stored value that did not change is not sent again; the old row has it.
    const after = shape.replicaIdentity === 'full' ? { ...before, ...written } : written
    return this.#add({ op: 'update', relation: relationName(shape), before, after }, shape)
  }

  #add(change: RowChange, shape: RelationShape): undefined {
    assert(this.#open !== undefined, 'rows belong to a transaction')
    this.#changes.push(change)
    this.#shapes.push(shape)
    return undefined
  }

  #relation(relationId: number): Relation {
    return present(this.#relations.get(relationId), 'the shape of a relation comes before its rows')
  }
}

interface Relation {
  readonly shape: RelationShape
  /** What identifies a row without replica identity FULL. */
  readonly key: readonly string[]
}

/** Of an old row without replica identity FULL only the key has values; the rest was sent as null. */
function oldImage(shape: RelationShape, key: readonly string[], tuple: Tuple): RowImage {
  const image = toImage(shape, tuple)
  return shape.replicaIdentity === 'full' ? image : pick(image, key)
}

function pick(image: RowImage, names: readonly string[]): RowImage {
  return Object.fromEntries(Object.entries(image).filter(([name]) => names.includes(name)))
}
