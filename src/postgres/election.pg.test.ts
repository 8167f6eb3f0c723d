import { afterEach, beforeEach, expect, test } from 'vitest'
import type { FreshDatabase } from '../../test/support/database.ts'
import { freshDatabase } from '../../test/support/database.ts'
import { eventually } from '../../test/support/eventually.ts'
import type { Clock } from '../base/clock.ts'
import { systemClock } from '../base/clock.ts'
import { Connection } from './connection.ts'
import { elect, restLooks } from './election.ts'

let database: FreshDatabase
let stop: AbortController
let candidates: Candidate[] = []

interface Candidate {
  readonly connection: Connection
  readonly pauses: number[]
  readonly ended: Promise<boolean | undefined>
  elected: boolean
}

beforeEach(async () => {
  database = await freshDatabase()
  stop = new AbortController()
})

afterEach(async () => {
  stop.abort()
  for (const { connection, ended } of candidates) {
    await ended
    connection.release()
  }
  candidates = []
  await database.drop()
})

async function stand(isPrimary = () => true, silentForMsMax = 60_000): Promise<Candidate> {
  const connection = await Connection.connect(database.target(), 5_000)
  const pauses: number[] = []
  const clock: Clock = {
    ...systemClock,
    sleep: (ms, signal) => {
      pauses.push(ms)
      return systemClock.sleep(ms, signal)
    },
  }
  const candidacy = { lock: 'test', everyMs: 5, silentForMsMax, isPrimary, clock, answerWithinMs: 5_000 }
  const election = elect(connection, candidacy, stop.signal)
  // A candidate whose connection is gone, or that is stopped, is not elected.
  const ended = election.catch(() => undefined)
  const candidate: Candidate = { connection, pauses, ended, elected: false }
  void ended.then((elected) => (candidate.elected = elected === true))
  candidates.push(candidate)
  return candidate
}

test('of those who wait the first in line looks often, and the rest do rarely', async () => {
  const first = await stand()
  await eventually(() => first.elected)
  const second = await stand()
  await eventually(() => second.pauses.length > 5)
  const third = await stand()
  await eventually(() => third.pauses.length > 5)
  expect(new Set(second.pauses)).toEqual(new Set([5]))
  expect(new Set(third.pauses)).toEqual(new Set([restLooks * 5]))
})

test('who is first in line is followed there, and in the place, by the next', async () => {
  const first = await stand()
  await eventually(() => first.elected)
  const second = await stand()
  await eventually(() => second.pauses.length > 0)
  const third = await stand()
  await eventually(() => third.pauses.length > 0)
  first.connection.destroy()
  // Whoever looks first has the place, and who is left is first in line.
  await eventually(() => second.elected || third.elected)
  const [elected, left] = second.elected ? [second, third] : [third, second]
  expect(left.elected).toBe(false)
  await eventually(() => left.pauses.at(-1) === 5)
  elected.connection.destroy()
  await eventually(() => left.elected)
})

test('who is stopped when it is elected keeps the place for as long as it may be silent, and no longer', async () => {
  const stopped = await stand(undefined, 1_000)
  await eventually(() => stopped.elected)
  const next = await stand()
  await eventually(() => next.elected)
  expect(stopped.connection.status).toBe('closed')
})

test('nobody is elected where the primary is another by now', async () => {
  const first = await stand()
  await eventually(() => first.elected)
  let isPrimary = true
  const second = await stand(() => isPrimary)
  await eventually(() => second.pauses.length > 0)
  isPrimary = false
  expect(await second.ended).toBe(false)
})
