import { assert } from '../base/assert.ts'

/** UUIDs in lower case to 16 bytes each, and back. */

const hyphens: ReadonlySet<number> = new Set([8, 13, 18, 23])
const hyphen = 0x2d
const hexOfByte: readonly string[] = Array.from({ length: 256 }, (_, byte) => byte.toString(16).padStart(2, '0'))
/** By character code; what is no digit has none. */
const digitOfCode: readonly (number | undefined)[] = Array.from({ length: 128 }, (_, code) => {
  const digit = '0123456789abcdef'.indexOf(String.fromCharCode(code))
  return digit < 0 ? undefined : digit
})

/** Writes a UUID at a place, and gives the place behind it. */
export function writeUuid(bytes: Uint8Array, at: number, uuid: string): number {
  let place = at
  let isUuid = uuid.length === 36
  for (let index = 0; isUuid && index < 36; ) {
    if (hyphens.has(index)) {
      isUuid = uuid.charCodeAt(index) === hyphen
      index += 1
      continue
    }
    const [high, low] = [digitOfCode[uuid.charCodeAt(index)], digitOfCode[uuid.charCodeAt(index + 1)]]
    if (high === undefined || low === undefined) isUuid = false
    else bytes[place++] = (high << 4) | low
    index += 2
  }
  assert(isUuid, `not a UUID in lower case: ${uuid}`)
  return place
}

export function readUuid(bytes: Uint8Array, at: number): string {
  let uuid = ''
  for (let index = 0; index < 16; index += 1) {
    if (index === 4 || index === 6 || index === 8 || index === 10) uuid += '-'
    uuid += hexOfByte[bytes[at + index] ?? 0]
  }
  return uuid
}
