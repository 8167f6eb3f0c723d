import fc from 'fast-check'
import { expect, test } from 'vitest'
import type { ShardName } from '../directory/topology.ts'
import type { HomeBackoff } from './home-backoff.ts'
import { afterAnswer, afterSilence, pauseBeforeMs } from './home-backoff.ts'

const home = 'eu-west/payroll' as ShardName
const other = 'us-east/treasury' as ShardName
const limits = { firstMs: 500, mostMs: 30_000 }
const none: HomeBackoff = new Map()

test('a home that was never silent may be asked', () => {
  expect(pauseBeforeMs(none, home, 1_000)).toBe(0)
})

test('pauses double up to the bound, and at most half of one is chance', () => {
  let backoff = none
  const pauses: number[] = []
  for (let failure = 0; failure < 9; failure += 1) {
    backoff = afterSilence(backoff, home, 0, 0, limits)
    pauses.push(pauseBeforeMs(backoff, home, 0))
  }
  expect(pauses).toEqual([250, 500, 1_000, 2_000, 4_000, 8_000, 15_000, 15_000, 15_000])
  const chances = fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true })
  fc.assert(
    fc.property(fc.nat(40), chances, (failures, chance) => {
      const before: HomeBackoff = new Map([[home, { failures, untilMs: 0 }]])
      const whole = Math.min(limits.mostMs, limits.firstMs * 2 ** failures)
      const pauseMs = pauseBeforeMs(afterSilence(before, home, 7, chance, limits), home, 7)
      expect(pauseMs).toBeGreaterThanOrEqual(whole / 2)
      expect(pauseMs).toBeLessThanOrEqual(whole)
    }),
  )
})

test('an answer ends the pause, and the next begins small; another home is not concerned', () => {
  const silent = afterSilence(afterSilence(none, home, 0, 0, limits), other, 0, 0, limits)
  const answered = afterAnswer(silent, home)
  expect(pauseBeforeMs(answered, home, 0)).toBe(0)
  expect(pauseBeforeMs(answered, other, 0)).toBe(250)
  expect(pauseBeforeMs(afterSilence(answered, home, 0, 0, limits), home, 0)).toBe(250)
})

test('a pause is over when its time has come', () => {
  const silent = afterSilence(none, home, 1_000, 0.5, limits)
  expect(pauseBeforeMs(silent, home, 1_374)).toBe(1)
  expect(pauseBeforeMs(silent, home, 1_375)).toBe(0)
})
