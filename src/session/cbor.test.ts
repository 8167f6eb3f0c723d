import { decode, encode, rfc8949EncodeOptions } from 'cborg'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { CborMalformed, CborReader, CborWriter } from './cbor.ts'
import { readUuid, writeUuid } from './uuid-bytes.ts'

type CborValue = number | bigint | Uint8Array | readonly CborValue[] | ReadonlyMap<number, CborValue>

const count = fc.oneof(fc.nat(), fc.nat(300), fc.nat(70_000), fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }))
const bytes = fc.uint8Array({ maxLength: 300 })
const leaf = fc.oneof(count, bytes)
const list = fc.array(fc.oneof(leaf, fc.array(leaf, { maxLength: 30 })), { maxLength: 30 })
const map = fc
  .uniqueArray(fc.tuple(fc.nat(300), fc.oneof(leaf, list)), { selector: ([key]) => key, maxLength: 30 })
  .map((entries) => new Map(entries.toSorted(([a], [b]) => a - b)))

function write(writer: CborWriter, value: CborValue): void {
  if (typeof value === 'number') writer.count(value)
  else if (typeof value === 'bigint') writer.bigCount(value)
  else if (value instanceof Uint8Array) {
    writer.byteString(value.length)
    writer.raw(value)
  } else if (value instanceof Map) {
    writer.map(value.size)
    for (const [key, one] of value as ReadonlyMap<number, CborValue>) {
      writer.count(key)
      write(writer, one)
    }
  } else {
    const items = value as readonly CborValue[]
    writer.list(items.length)
    for (const one of items) write(writer, one)
  }
}

const writer = new CborWriter()

const written = (value: CborValue) => {
  writer.restart()
  write(writer, value)
  return Buffer.from(writer.bytes.subarray(0, writer.length))
}

/** Asks for what stands there; the first three bits of a value tell its kind (RFC 8949, section 3). */
function read(reader: CborReader, bytes: Uint8Array): CborValue {
  switch ((bytes[reader.at] ?? 0) >> 5) {
    case 2: {
      const from = reader.byteString()
      return bytes.subarray(from, reader.at)
    }
    case 4:
      return Array.from({ length: reader.list() }, () => read(reader, bytes))
    case 5:
      return new Map(Array.from({ length: reader.map() }, () => [reader.count(), read(reader, bytes)] as const))
    default:
      return reader.bigCount()
  }
}

function readAll(bytes: Uint8Array): CborValue {
  const reader = new CborReader(bytes)
  const value = read(reader, bytes)
  reader.end()
  return value
}

/** Numbers are numbers as long as they are exact, and byte strings have no type of their own. */
function plain(value: unknown): unknown {
  if (typeof value === 'bigint') return value <= Number.MAX_SAFE_INTEGER ? Number(value) : value
  if (value instanceof Uint8Array) return Buffer.from(value).toString('hex')
  if (value instanceof Map) return new Map([...value].map(([key, one]) => [key, plain(one)]))
  return Array.isArray(value) ? value.map(plain) : value
}

describe('what is written', () => {
  test('is what cborg writes in the deterministic form, and both read it back', () => {
    fc.assert(
      fc.property(map, (value) => {
        const own = written(value)
        expect(own.toString('hex')).toBe(Buffer.from(encode(value, rfc8949EncodeOptions)).toString('hex'))
        expect(plain(readAll(own))).toEqual(plain(value))
        expect(plain(decode(own, { useMaps: true }))).toEqual(plain(value))
      }),
      { numRuns: 500 },
    )
  })

  test.each([0, 23, 24, 255, 256, 65_535, 65_536, 2 ** 32 - 1, 2 ** 32, 2n ** 53n, 2n ** 64n - 1n])('%s', (value) => {
    const own = written(value)
    expect(own).toEqual(Buffer.from(encode(value)))
    expect(plain(readAll(own))).toBe(plain(value))
  })
})

describe('what is read', () => {
  test('bytes of any kind are read as cborg reads them, or refused', () => {
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 1, maxLength: 40 }), (any) => {
        let value: CborValue
        try {
          value = readAll(any)
        } catch (error) {
          expect(error).toBeInstanceOf(CborMalformed)
          return
        }
        expect(plain(value)).toEqual(plain(decode(any, { useMaps: true, strict: true })))
        // One content, one form.
        expect(written(value)).toEqual(Buffer.from(any))
      }),
      { numRuns: 5_000 },
    )
  })

  test.each([
    ['nothing', ''],
    ['a negative number', '20'],
    ['a text', '6161'],
    ['a tag', 'c100'],
    ['a float', 'f90000'],
    ['a list without a length', '9fff'],
    ['a number in two bytes that fits into one', '1817'],
    ['a number in three bytes that fits into two', '1900ff'],
    ['a number in five bytes that fits into three', '1a0000ffff'],
    ['a number in nine bytes that fits into five', '1b00000000ffffffff'],
    ['bytes that are cut short', '4300'],
    ['a list that is longer than what is left', '9affffffff'],
    ['a map with a key that is no count', 'a1410000'],
    ['something behind the end', '0000'],
  ])('%s is refused', (_, hex) => {
    expect(() => readAll(Buffer.from(hex, 'hex'))).toThrow(CborMalformed)
  })
})

describe('UUIDs as bytes', () => {
  test('there and back', () => {
    fc.assert(
      fc.property(fc.uuid(), fc.nat(20), (uuid, at) => {
        const bytes = Buffer.alloc(at + 16)
        expect(writeUuid(bytes, at, uuid)).toBe(at + 16)
        expect(bytes.subarray(at).toString('hex')).toBe(uuid.replaceAll('-', ''))
        expect(readUuid(bytes, at)).toBe(uuid)
      }),
    )
  })

  test.each([
    '',
    'x',
    '019a-',
    '00000000-0000-0000-0000-00000000000G',
    '00000000-0000-0000-0000-0000000000AB',
    '000000000-000-0000-0000-000000000000',
    '00000000-0000-0000-0000-0000000000001',
    '\u0130'.repeat(36),
  ])('%j is none', (text) => {
    expect(() => writeUuid(Buffer.alloc(16), 0, text)).toThrow('not a UUID')
  })
})
