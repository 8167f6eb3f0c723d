import fc from 'fast-check'
import { expect, test } from 'vitest'
import { parseTextArray } from './text-array.ts'

test('reads arrays as PostgreSQL writes them', () => {
  expect(parseTextArray('{}')).toEqual([])
  expect(parseTextArray('{us-east/treasury,eu-west/payroll}')).toEqual(['us-east/treasury', 'eu-west/payroll'])
  expect(parseTextArray('{"a b","",c}')).toEqual(['a b', '', 'c'])
})

test('reads back any texts, quoted', () => {
  fc.assert(
    fc.property(fc.array(fc.string()), (elements) => {
      const quoted = elements.map((element) => `"${element.replaceAll(/[\\"]/g, (char) => `\\${char}`)}"`)
      expect(parseTextArray(`{${quoted.join(',')}}`)).toEqual(elements)
    }),
  )
})

test('refuses what is not an array of texts', () => {
  for (const text of ['', '{', 'a', '{a', '{NULL}', '{a,{b}}', '{"a}']) {
    expect(() => parseTextArray(text)).toThrow('not an array of texts')
  }
})
