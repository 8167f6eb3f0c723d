import { describe, expect, test } from 'vitest'
import { nextDrillMs } from './drill-schedule.ts'

const hourMs = 3_600_000
const nothing = { everyMs: 24 * hourMs, lastMs: undefined, sinceMs: undefined, failedMs: undefined }

describe('the next drill is due', () => {
  test.each([
    ['never while a shard has no base backup', nothing, undefined],
    ['so long behind the first base backups', { ...nothing, sinceMs: 1_000 }, 1_000 + 24 * hourMs],
    ['so long behind the last report', { ...nothing, lastMs: 5_000 }, 5_000 + 24 * hourMs],
    [
      'ten minutes behind one in vain that was due',
      { ...nothing, lastMs: 0, failedMs: 30 * hourMs },
      30 * hourMs + 600_000,
    ],
    ['no later than the next one would be', { ...nothing, everyMs: 1_000, lastMs: 0, failedMs: 5_000 }, 6_000],
    [
      'not before its time for one that was in vain early',
      { ...nothing, lastMs: hourMs, failedMs: hourMs },
      25 * hourMs,
    ],
  ])('%s', (_, times, due) => {
    expect(nextDrillMs(times)).toBe(due)
  })
})
