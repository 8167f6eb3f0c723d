import { describe, expect, test } from 'vitest'
import { quoteIdentifier, quoteRelation } from './identifier.ts'

describe('identifiers', () => {
  test('a name cannot leave its quotes', () => {
    expect(quoteIdentifier('a"; drop table b; --')).toBe('"a""; drop table b; --"')
    expect(quoteRelation('public.Pay "runs"')).toBe('"public"."Pay ""runs"""')
  })

  test.each(['', 'a\0b'])('%j is not a name', (name) => {
    expect(() => quoteIdentifier(name)).toThrow('an identifier')
  })

  test.each(['runs', '.runs', 'public.'])('%j does not name a relation', (name) => {
    expect(() => quoteRelation(name)).toThrow('named with its schema')
  })
})
