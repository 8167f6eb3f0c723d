import { expect, test } from 'vitest'
import { rankOf } from './clock-election.ts'

test.each([
  ['beside the primary', true, 0, 0, 3],
  ['elsewhere', false, 0, 0, 2],
  ['beside the primary, as far off as may be', true, 500, 0, 3],
  ['beside the primary, ahead', true, -501, 0, 1],
  ['beside the primary, behind', true, 501, 0, 1],
  ['elsewhere, behind', false, 501, 0, 1],
  ['behind by less than the link can falsify', true, 520, 20, 3],
])('a candidate %s', (_, isNear, offsetMs, uncertainMs, rank) => {
  expect(rankOf(isNear, { offsetMs, uncertainMs }, 500)).toBe(rank)
})
