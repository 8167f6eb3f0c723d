import { expect, test } from 'vitest'
import { remembered } from './remembered.ts'

test('a text that comes again is not computed again, until newer ones have taken its place', () => {
  const computed: string[] = []
  const lengthOf = remembered(
    (text) => {
      computed.push(text)
      return text.length
    },
    2,
    4,
  )
  expect(['a', 'bb', 'a', 'bb'].map(lengthOf)).toEqual([1, 2, 1, 2])
  expect(computed).toEqual(['a', 'bb'])
  expect(['ccc', 'bb', 'a'].map(lengthOf)).toEqual([3, 2, 1])
  expect(computed).toEqual(['a', 'bb', 'ccc', 'a'])
  expect(['longer', 'longer'].map(lengthOf)).toEqual([6, 6])
  expect(computed.slice(4)).toEqual(['longer', 'longer'])
})

test('an error is not remembered', () => {
  let times = 0
  const fail = remembered(() => {
    times += 1
    throw new Error('no')
  }, 2)
  expect(() => fail('a')).toThrow('no')
  expect(() => fail('a')).toThrow('no')
  expect(times).toBe(2)
})
