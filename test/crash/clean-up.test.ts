import { expect, test } from 'vitest'
import { thenCleanUp } from '../support/clean-up.ts'

const failing = (message: string) => () => Promise.reject(new Error(message))

test('what failed first is told, and a clean-up that fails behind it beside it', async () => {
  const told = thenCleanUp(failing('the step was not reached'), failing('it did not settle'))
  await expect(told).rejects.toMatchObject({
    message: 'the step was not reached; and it was not cleaned up: it did not settle',
    cause: { message: 'the step was not reached' },
    errors: [{ message: 'the step was not reached' }, { message: 'it did not settle' }],
  })
})

test('it is cleaned up after what failed and after what did not', async () => {
  const cleaned: string[] = []
  const cleanUp = (after: string) => () => {
    cleaned.push(after)
    return Promise.resolve()
  }
  await expect(thenCleanUp(failing('no'), cleanUp('a failure'))).rejects.toThrow(/^no$/)
  expect(await thenCleanUp(() => Promise.resolve(1), cleanUp('an end'))).toBe(1)
  expect(cleaned).toEqual(['a failure', 'an end'])
  await expect(thenCleanUp(() => Promise.resolve(1), failing('it did not settle'))).rejects.toThrow('it did not settle')
})
