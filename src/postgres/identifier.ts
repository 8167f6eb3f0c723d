import { assert } from '../base/assert.ts'

/**
 * The only way in which a name that came from data may enter a statement. Values never do: they are parameters.
 * (PostgreSQL, "Identifiers and Key Words".)
 */
export function quoteIdentifier(name: string): string {
  assert(name.length > 0 && !name.includes('\0'), `an identifier is not empty and has no zero byte`)
  return `"${name.replaceAll('"', '""')}"`
}

/** `schema.table`, neither part quoted, as a quoted name. The schema has no dot in its name. */
export function quoteRelation(relation: string): string {
  const dot = relation.indexOf('.')
  assert(dot > 0 && dot < relation.length - 1, `a relation is named with its schema, not ${JSON.stringify(relation)}`)
  return `${quoteIdentifier(relation.slice(0, dot))}.${quoteIdentifier(relation.slice(dot + 1))}`
}
