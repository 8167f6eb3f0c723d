import { JsonText } from '../base/json-text.ts'
import { newRandomUuid } from '../base/random.ts'

/**
 * JSON as this API writes it: what JavaScript would round or refuse travels as a string. `bigint` (cents, timestamps)
 * in decimal, `bytea` in PostgreSQL's hexadecimal form, `NaN` and the infinities by their names. What is JSON already is
 * written as it is.
 */
export function toJson(value: unknown, indent = 0): string {
  const texts: string[] = []
  // Made for each text, so that no value can hold it.
  let mark = ''
  function replace(this: unknown, key: string, converted: unknown): unknown {
    if (typeof converted === 'bigint') return converted.toString()
    if (typeof converted === 'number' && !Number.isFinite(converted)) return String(converted)
    if (converted instanceof JsonText) {
      mark ||= newRandomUuid()
      return `${mark}${texts.push(converted.text) - 1}`
    }
    // By now `toJSON` has turned a buffer into a list of numbers; its holder still has it.
    const original = typeof this === 'object' && this !== null ? Reflect.get(this, key) : undefined
    return original instanceof Uint8Array ? `\\x${Buffer.from(original).toString('hex')}` : converted
  }
  const json = JSON.stringify(value, replace, indent)
  if (texts.length === 0) return json
  return json.replaceAll(new RegExp(`"${mark}(\\d+)"`, 'g'), (_, index) => texts[Number(index)] ?? '')
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
