import { expect, test } from 'vitest'
import { AnswerTime } from './answer-time.ts'

const windowMs = 1_000

/** One after the other, each alone. */
function answer(time: AnswerTime, sentMs: number, tookMs: number): number {
  time.answered(tookMs, time.sent(sentMs, true))
  return time.fastestMs
}

test('falls at once, and grows with the first that is sent alone a window later', () => {
  const time = new AnswerTime(windowMs)
  expect(answer(time, 0, 80)).toBe(80)
  expect(answer(time, 100, 20)).toBe(20)
  expect(answer(time, 900, 80)).toBe(20)
  expect(answer(time, 1_000, 80)).toBe(80)
  expect(answer(time, 1_100, 75)).toBe(75)
})

test('what queued behind others does not make it grow, however long that goes on', () => {
  const time = new AnswerTime(windowMs)
  answer(time, 0, 50)
  for (let sentMs = 5; sentMs < 10_000; sentMs += 5) time.answered(3_000, time.sent(sentMs, false))
  expect(time.fastestMs).toBe(50)
  expect(time.isDue(10_000)).toBe(true)
})

test('one is due at the beginning, and then a window after the last that was sent alone', () => {
  const time = new AnswerTime(windowMs)
  expect(time.isDue(0)).toBe(true)
  expect(time.fastestMs).toBe(0)
  const begins = time.sent(0, true)
  expect(begins).toBe(true)
  // It is on its way.
  expect(time.isDue(1)).toBe(false)
  expect(time.sent(5, false)).toBe(false)
  time.answered(80, begins)
  expect(time.isDue(999)).toBe(false)
  expect(time.isDue(1_000)).toBe(true)
})

test('one is sent alone only where more would be on their way than the link holds', () => {
  const time = new AnswerTime(windowMs)
  // Nothing is known: the first is sent alone.
  expect(time.underwayMax(0, 1, 5)).toBe(0)
  answer(time, 0, 80)
  expect(time.underwayMax(5_000, 20, 5)).toBe(20)
  expect(time.underwayMax(5_000, 21, 5)).toBe(0)
  // Until it is.
  expect(time.underwayMax(5_040, 10, 5)).toBe(0)
  answer(time, 5_080, 160)
  expect(time.underwayMax(5_085, 21, 5)).toBe(40)
  // Not sooner than a window later.
  expect(time.underwayMax(5_900, 41, 5)).toBe(40)
  expect(time.underwayMax(6_080, 41, 5)).toBe(0)
})
