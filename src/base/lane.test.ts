import { expect, test } from 'vitest'
import { deferred } from './deferred.ts'
import { Lane } from './lane.ts'

test('one at a time, in order, and a failure is of the one that failed', async () => {
  const lane = new Lane()
  const first = deferred<void>()
  const ran: string[] = []
  const failing = lane.run(async () => {
    ran.push('first begins')
    await first.promise
    ran.push('first ends')
    throw new Error('of the first')
  })
  const second = lane.run(() => Promise.resolve(ran.push('second')))
  first.resolve()
  await expect(failing).rejects.toThrow('of the first')
  expect(await second).toBe(3)
  expect(ran).toEqual(['first begins', 'first ends', 'second'])
})

test('it has ended when the last that came has', async () => {
  const lane = new Lane()
  await lane.ended()
  const held = deferred<void>()
  let hasEnded = false
  const running = lane.run(() => held.promise)
  const ended = lane.ended().then(() => {
    hasEnded = true
  })
  await Promise.resolve()
  expect(hasEnded).toBe(false)
  held.resolve()
  await Promise.all([running, ended])
})
