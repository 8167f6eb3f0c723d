/**
 * JSON as this API writes it: what JavaScript would round or refuse travels as a string. `bigint` (cents, timestamps)
 * in decimal, `bytea` in PostgreSQL's hexadecimal form.
 */
export function toJson(value: unknown, indent = 0): string {
  function replace(this: unknown, key: string, converted: unknown): unknown {
    if (typeof converted === 'bigint') return converted.toString()
    // By now `toJSON` has turned a buffer into a list of numbers; its holder still has it.
    const original = typeof this === 'object' && this !== null ? Reflect.get(this, key) : undefined
    return original instanceof Uint8Array ? `\\x${Buffer.from(original).toString('hex')}` : converted
  }
  return JSON.stringify(value, replace, indent)
}

/** Whether arrays and objects lie in each other more than so many levels deep. Looks level by level: the depth is anybody's. */
export function isNestedDeeper(value: unknown, levelsMax: number): boolean {
  let level = [value].filter(isContainer)
  for (let depth = 0; level.length > 0; depth++) {
    if (depth === levelsMax) return true
    level = level.flatMap((container) => Object.values(container).filter(isContainer))
  }
  return false
}

function isContainer(value: unknown): value is object {
  return typeof value === 'object' && value !== null
}
