import { expect, test } from 'vitest'
import { deferred } from './deferred.ts'
import { Underway } from './underway.ts'

test('all that was begun is waited for, what failed and what was begun meanwhile too', async () => {
  const underway = new Underway()
  const [first, second] = [deferred<void>(), deferred<void>()]
  const told: string[] = []
  underway.begin(first.promise).catch(() => told.push('first'))
  const ended = underway.ended().then(() => told.push('ended'))
  underway.begin(second.promise.then(() => told.push('second'))).catch(() => undefined)
  first.reject(new Error('it failed'))
  await new Promise(setImmediate)
  expect(told).toEqual(['first'])
  second.resolve()
  await ended
  expect(told).toEqual(['first', 'second', 'ended'])
})
