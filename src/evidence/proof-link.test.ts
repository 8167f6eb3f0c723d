import { describe, expect, test } from 'vitest'
import { broken, pending, proven, strictest } from './proof-link.ts'

describe('V2: of several verdicts on one link', () => {
  test('one that is broken breaks it, whatever the others do not know', () => {
    expect(strictest([proven('a'), pending('b'), broken('c'), pending('d')])).toMatchObject({
      status: 'broken',
      reason: 'c',
    })
  })

  test('one that is pending leaves it pending, and every reason is told once', () => {
    expect(strictest([pending('b'), proven('a'), pending('b'), pending('c')])).toMatchObject({
      status: 'pending',
      reason: 'b; c',
    })
  })

  test('all that are proven prove it, with the facts of each', () => {
    expect(strictest([proven('a', { node: 1 }), proven('b', { node: 2 })])).toEqual({
      status: 'proven',
      reason: 'a; b',
      facts: { parts: [{ node: 1 }, { node: 2 }] },
    })
  })

  test('none at all is pending: nothing was shown', () => {
    expect(strictest([])).toMatchObject({ status: 'pending' })
  })
})
