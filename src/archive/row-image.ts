import { assert } from '../base/assert.ts'
import type { RelationShape, RowImage } from './redo-transaction.ts'
import { relationName } from './redo-transaction.ts'

/** Rows travel and lie as values in the order of their columns. Undefined: the image does not have the column. */
export type RowValues = readonly (string | null | undefined)[]

export function toImage(shape: RelationShape, values: RowValues): RowImage {
  assert(values.length === shape.columns.length, `a row of ${relationName(shape)} has ${shape.columns.length} columns`)
  return Object.fromEntries(
    shape.columns.flatMap(({ name }, index) => {
      const value = values[index]
      return value === undefined ? [] : [[name, value]]
    }),
  )
}

export function toValues(shape: RelationShape, image: RowImage): RowValues {
  return shape.columns.map(({ name }) => (Object.hasOwn(image, name) ? image[name] : undefined))
}
