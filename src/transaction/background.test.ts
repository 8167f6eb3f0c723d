import { expect, test } from 'vitest'
import { Background } from './background.ts'

test('what fails in the background is told, and ends neither the process nor the rest', async () => {
  const told: unknown[] = []
  const background = new Background((error) => told.push(error))
  const [atOnce, later] = [new Error('at once'), new Error('later')]
  let isDone = false
  background.run(() => {
    throw atOnce
  })
  background.runNext(() => Promise.reject(later))
  background.runNext(async () => {
    isDone = true
  })
  await background.drain()
  // Node tells of a rejection that nobody has handled when the promises of a turn are through.
  await new Promise((resolve) => void setImmediate(resolve))
  expect(told).toEqual([atOnce, later])
  expect(isDone).toBe(true)
})
