import { afterAll, beforeAll, expect, test } from 'vitest'
import type { FreshDatabase } from '../../test/support/database.ts'
import { freshDatabase } from '../../test/support/database.ts'
import { HoldfastError } from '../base/errors.ts'
import { administer } from './administer.ts'

let database: FreshDatabase

beforeAll(async () => {
  database = await freshDatabase()
})

afterAll(() => database.drop())

test('what names no deadline is given up after half a minute, and told as a server that does not answer', async () => {
  const waiting = administer(database.target(), (admin) => admin.query('select pg_sleep(120)'))
  const told = await waiting.catch((error: unknown) => error)
  expect(told).toMatchObject({ code: 'node_unavailable', retry: 'safe' })
  expect((told as HoldfastError).message).toContain('no answer within 30000 ms')
}, 90_000)

test('what takes longer by its nature names its own', async () => {
  const answers = administer(database.target(), (admin) => admin.query('select pg_sleep(0.5)', [], 60_000), 100)
  expect((await answers).rowCount).toBe(1)
})
