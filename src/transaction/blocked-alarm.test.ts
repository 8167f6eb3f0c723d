import { expect, test } from 'vitest'
import type { ToldBlocker } from './blocked-alarm.ts'
import { tellBlocker } from './blocked-alarm.ts'

const limits = { firstPauseMs: 1_000, pauseMsMax: 60_000 }
const session = { pid: 7, gid: null }
const branch = { pid: null, gid: 'held' }

/** At which seconds is told of what blocks then, where it is looked at every second; closings have waited since 0. */
function toldAt(untilS: number, blockerAt: (second: number) => typeof session | typeof branch): number[] {
  let told: ToldBlocker | undefined
  const seconds = Array.from({ length: untilS }, (_, index) => index + 1)
  return seconds.filter((second) => {
    const next = tellBlocker(told, blockerAt(second), second * 1_000, second * 1_000, limits)
    told = next.told
    return next.isDue
  })
}

test('the same one is told of at once, then at intervals that double up to a minute', () => {
  expect(toldAt(250, () => session)).toEqual([1, 2, 4, 8, 16, 32, 64, 124, 184, 244])
})

test('another one is told of at once, with the time that closings have waited for both', () => {
  expect(toldAt(12, (second) => (second < 7 ? session : branch))).toEqual([1, 2, 4, 7, 8, 10])
  const first = tellBlocker(undefined, session, 1_500, 10_000, limits)
  const second = tellBlocker(first.told, branch, 2_500, 11_000, limits)
  expect([first.told.sinceMs, second.told.sinceMs]).toEqual([8_500, 8_500])
})
