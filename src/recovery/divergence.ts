import type { RelationName, RelationShape, RowChange, RowImage } from '../archive/redo-transaction.ts'
import type { TransactionName } from './history.ts'
import type { RowKey, Shapes } from './row-key.ts'
import { imagesOf, keyOf, referableKey, referencedKey, sameRow } from './row-key.ts'

/** Why a transaction cannot be replayed when others are left out. */
export interface Conflict {
  readonly kind: /** It changes a row that an excluded transaction changed before: its before image does not match. */
    | 'row'
    /** It refers to a row that would not be there. */
    | 'parent'
    /** It removes a row that another would still refer to. */
    | 'child'
    /** It empties a table in which rows would be left over. */
    | 'truncate'
  readonly relation: RelationName
  readonly key: RowKey
  /** The excluded transactions that it depends on by that. */
  readonly of: readonly TransactionName[]
}

interface DivergedRow {
  readonly relation: RelationName
  readonly key: RowKey
  /** As it is when the excluded are left out; null: not there. */
  readonly replayed: RowImage | null
  /** As it was. */
  readonly original: RowImage | null
  readonly causes: readonly TransactionName[]
}

/**
 * The rows of one shard that differ between history as it was and history without the excluded transactions, while
 * both are walked in commit order. A row that is not in here is the same in both.
 *
 * A transaction that is replayed therefore conflicts exactly when it touches a row in here, or when a foreign key
 * leads from its rows to one in here or back. Else its before images match and its constraints hold as they did.
 */
export class Divergence {
  readonly #shapes: Shapes
  readonly #rows = new Map<RowKey, DivergedRow>()

  constructor(shapes: Shapes) {
    this.#shapes = shapes
  }

  get isEmpty(): boolean {
    return this.#rows.size === 0
  }

  /** History as it was takes the change; history without the excluded does not. */
  leaveOut(change: RowChange, name: TransactionName): void {
    if (change.op === 'truncate') {
      for (const row of this.#ofRelation(change.relation)) this.#setOriginal(row.relation, row.key, row, null, name)
      return
    }
    const shape = this.#shapes.get(change.relation)
    const { before, after } = imagesOf(change)
    const keyBefore = before === null ? null : keyOf(change.relation, before, shape)
    const keyAfter = after === null ? null : keyOf(change.relation, after, shape)
    if (keyBefore !== null && keyBefore !== keyAfter) {
      const unchanged = { replayed: before, original: before, causes: [] }
      this.#setOriginal(change.relation, keyBefore, this.#rows.get(keyBefore) ?? unchanged, null, name)
    }
    if (keyAfter !== null) {
      const same = keyBefore === keyAfter ? before : null
      const unchanged = { replayed: same, original: same, causes: [] }
      this.#setOriginal(change.relation, keyAfter, this.#rows.get(keyAfter) ?? unchanged, after, name)
    }
  }

  /** Why the change cannot be replayed; null when it can, and then it changes both histories in the same way. */
  conflictOf(change: RowChange): Conflict | null {
    if (change.op === 'truncate') return this.#truncateConflict(change.relation)
    const shape = this.#shapes.get(change.relation)
    const { before, after } = imagesOf(change)
    return (
      this.#rowConflict(change.relation, [before, after], shape) ??
      (after === null ? null : this.#parentConflict(before, after, shape)) ??
      (before === null ? null : this.#childConflict(change.relation, before, after))
    )
  }

  #setOriginal(
    relation: RelationName,
    key: RowKey,
    known: Pick<DivergedRow, 'replayed' | 'causes'>,
    original: RowImage | null,
    cause: TransactionName,
  ): void {
    if (sameRow(known.replayed, original)) this.#rows.delete(key)
    else {
      const causes = known.causes.includes(cause) ? known.causes : [...known.causes, cause]
      this.#rows.set(key, { relation, key, replayed: known.replayed, original, causes })
    }
  }

  #rowConflict(
    relation: RelationName,
    images: readonly (RowImage | null)[],
    shape: RelationShape | undefined,
  ): Conflict | null {
    for (const image of images) {
      const row = image === null ? undefined : this.#rows.get(keyOf(relation, image, shape))
      if (row !== undefined) return { kind: 'row', relation, key: row.key, of: row.causes }
    }
    return null
  }

  #parentConflict(before: RowImage | null, after: RowImage, shape: RelationShape | undefined): Conflict | null {
    for (const foreignKey of shape?.foreignKeys ?? []) {
      const key = referencedKey(foreignKey, after)
      if (key === null || (before !== null && referencedKey(foreignKey, before) === key)) continue
      for (const row of this.#ofRelation(foreignKey.references)) {
        const wasThere = row.original !== null && referableKey(foreignKey, row.original) === key
        const isThere = row.replayed !== null && referableKey(foreignKey, row.replayed) === key
        if (wasThere && !isThere) return { kind: 'parent', relation: row.relation, key: row.key, of: row.causes }
      }
    }
    return null
  }

  #childConflict(relation: RelationName, before: RowImage, after: RowImage | null): Conflict | null {
    for (const row of this.#rows.values()) {
      for (const foreignKey of this.#shapes.get(row.relation)?.foreignKeys ?? []) {
        if (foreignKey.references !== relation || row.replayed === null) continue
        const gone = referableKey(foreignKey, before)
        if (after !== null && referableKey(foreignKey, after) === gone) continue
        if (referencedKey(foreignKey, row.replayed) !== gone) continue
        return { kind: 'child', relation: row.relation, key: row.key, of: row.causes }
      }
    }
    return null
  }

  #truncateConflict(relation: RelationName): Conflict | null {
    const [row] = this.#ofRelation(relation).filter(({ replayed }) => replayed !== null)
    return row === undefined ? null : { kind: 'truncate', relation, key: row.key, of: row.causes }
  }

  #ofRelation(relation: RelationName): DivergedRow[] {
    return [...this.#rows.values()].filter((row) => row.relation === relation)
  }
}
