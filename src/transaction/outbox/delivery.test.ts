import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { afterAttempt, backoffMs, isDue } from './delivery.ts'

describe('trying again', () => {
  test('an event that was never tried is due', () => {
    expect(isDue(undefined, 0)).toBe(true)
  })

  test('a failure waits its backoff and is due exactly then', () => {
    const first = afterAttempt(undefined, 'refused', 1_000)
    expect(first).toEqual({ failures: 1, notBeforeMs: 1_100, unreachable: false })
    expect(isDue(first, 1_099)).toBe(false)
    expect(isDue(first, 1_100)).toBe(true)
  })

  test('the wait grows with every failure and has a bound that any number of failures keeps', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 1_000_000 }), (failures) => {
        expect(backoffMs(failures)).toBeLessThanOrEqual(backoffMs(failures + 1))
        expect(backoffMs(failures)).toBeLessThanOrEqual(30_000)
      }),
    )
  })

  test('failures add up over refusals and silence', () => {
    const second = afterAttempt(afterAttempt(undefined, 'refused', 0), 'unreachable', 200)
    expect(second).toEqual({ failures: 2, notBeforeMs: 400, unreachable: true })
  })
})
