import { assert } from '../base/assert.ts'

/** UUIDs in lower case to 16 bytes each, and back. */

const hyphen = 0x2d
const digits = '0123456789abcdef'
const noDigit = 0xff
/** By character code. */
const digitOfCode = Uint8Array.from({ length: 128 }, (_, code) => {
  const digit = digits.indexOf(String.fromCharCode(code))
  return digit < 0 ? noDigit : digit
})
const codeOfDigit = Uint8Array.from(digits, (digit) => digit.charCodeAt(0))
/** One text at a time is put together here. */
const text = Buffer.alloc(36, hyphen)

/** Writes a UUID at a place, and gives the place behind it. */
export function writeUuid(bytes: Uint8Array, at: number, uuid: string): number {
  let place = at
  let isUuid = uuid.length === 36
  for (let index = 0; isUuid && index < 36; ) {
    if (index === 8 || index === 13 || index === 18 || index === 23) {
      isUuid = uuid.charCodeAt(index) === hyphen
      index += 1
      continue
    }
    const high = digitOfCode[uuid.charCodeAt(index)] ?? noDigit
    const low = digitOfCode[uuid.charCodeAt(index + 1)] ?? noDigit
    isUuid = high !== noDigit && low !== noDigit
    bytes[place++] = (high << 4) | low
    index += 2
  }
  assert(isUuid, () => `not a UUID in lower case: ${uuid}`)
  return place
}

export function readUuid(bytes: Uint8Array, at: number): string {
  let place = 0
  for (let index = at; index < at + 16; index += 1) {
    if (place === 8 || place === 13 || place === 18 || place === 23) place += 1
    const byte = bytes[index] ?? 0
    text[place++] = codeOfDigit[byte >> 4] ?? 0
    text[place++] = codeOfDigit[byte & 0xf] ?? 0
  }
  return text.toString('latin1')
}
