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
