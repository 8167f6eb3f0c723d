import { expect, test } from 'vitest'
import { JsonText } from '../base/json-text.ts'
import { isNestedDeeper, toJson } from './json.ts'

test('a bigint travels as a decimal string, at any depth', () => {
  expect(toJson({ cents: 9_007_199_254_740_993n, list: [{ at: 1n }] })).toBe(
    '{"cents":"9007199254740993","list":[{"at":"1"}]}',
  )
})

test('bytes travel as PostgreSQL writes them', () => {
  expect(toJson({ a: Buffer.from([1, 255]), b: new Uint8Array([16]) })).toBe('{"a":"\\\\x01ff","b":"\\\\x10"}')
})

test('numbers that JSON has not travel by the names that PostgreSQL gives them', () => {
  expect(toJson([Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY])).toBe(
    '["NaN","Infinity","-Infinity"]',
  )
})

test('what is JSON already is written as it is, wherever it stands', () => {
  const document = new JsonText('{"cents": 9007199254740993}')
  expect(toJson({ a: document, b: [document, new JsonText('"$&"')] })).toBe(
    '{"a":{"cents": 9007199254740993},"b":[{"cents": 9007199254740993},"$&"]}',
  )
  expect(toJson(new JsonText('1.10'))).toBe('1.10')
})

test('a date travels as ISO 8601 in UTC, and what JSON has itself stays as it is', () => {
  expect(toJson({ at: new Date(0), n: 1.5, s: 'x', t: true, z: null })).toBe(
    '{"at":"1970-01-01T00:00:00.000Z","n":1.5,"s":"x","t":true,"z":null}',
  )
})

test('what is nested is seen level by level, however deep it is', () => {
  const nested = (levels: number) => JSON.parse('['.repeat(levels) + ']'.repeat(levels)) as unknown
  expect([isNestedDeeper(1, 0), isNestedDeeper({ a: [], b: { c: null } }, 2), isNestedDeeper(nested(7), 7)]).toEqual([
    false,
    false,
    false,
  ])
  expect([isNestedDeeper({}, 0), isNestedDeeper([1, { a: [] }], 2), isNestedDeeper(nested(50_000), 49_999)]).toEqual([
    true,
    true,
    true,
  ])
})
