import { rm } from 'node:fs/promises'
import { afterAll, afterEach, describe, expect, test, vi } from 'vitest'
import { first, LosingFleet, numbered, second, still } from '../../test/support/losing-fleet.ts'
import { releaseWith } from '../../test/support/releases.ts'
import { payroll } from '../../test/support/shard-fleet.ts'
import { more } from '../../test/support/upgrading-fleet.ts'
import type { OnStep } from '../base/step.ts'
import { restartNode } from './node-restart.ts'

/** V9, on real servers: a fleet that starts, or begins to take traffic again, without followers that are gone. */

const fleet = new LosingFleet()
vi.setConfig({ testTimeout: 180_000 })

afterEach(() => fleet.end())
afterAll(() => fleet.remove())

describe('a fleet starts', () => {
  test('without a follower whose directory is gone, and builds it anew', async () => {
    await fleet.start()
    const lost = fleet.directory(first)
    await fleet.supervisor.close()
    await rm(lost, { recursive: true })
    await fleet.start()
    expect(fleet.shard().state).toBe('open')
    expect(fleet.alarms).toEqual([
      `${payroll}: ${first} is lost: its data directory ${lost} is gone; its place is built anew`,
    ])
    await fleet.whole(1, 3, 4)
  })

  test('behind a new follower, where the one that is gone was the only one', async () => {
    await fleet.start({ followers: ['eu-central'] })
    const lost = fleet.directory(first)
    await fleet.supervisor.close()
    await rm(lost, { recursive: true })
    await fleet.start({ followers: ['eu-central'] })
    expect(fleet.shard().state).toBe('open')
    await fleet.whole(1, 3)
  })

  test('where none of the followers is left, and in a new release', async () => {
    await fleet.start()
    const lost = [fleet.directory(first), fleet.directory(second)]
    await fleet.supervisor.close()
    for (const one of lost) await rm(one, { recursive: true })
    await fleet.start({ release: await releaseWith(more) })
    expect(fleet.shard()).toMatchObject({ state: 'open', epoch: 2 })
    await fleet.whole(1, 4, 5)
  })

  test('in a new release without a follower whose log is gone', async () => {
    await fleet.start({ clock: still })
    await fleet.loseSlot(first)
    expect(fleet.ids()).toEqual(numbered(1, 2, 3))
    await fleet.supervisor.close()
    await fleet.start({ release: await releaseWith(more) })
    expect(fleet.shard()).toMatchObject({ state: 'open', epoch: 2 })
    expect(fleet.alarms).toEqual([
      `${payroll}: ${first} is lost: its primary no longer keeps the log that it lacks; its place is built anew`,
    ])
    await fleet.whole(1, 3, 4)
  })
})

describe('where the only follower that counts was retired, and its successor is not built', () => {
  const followers = ['eu-west', 'eu-central']
  const breakOff: OnStep = (at) =>
    at === 'promotion place' ? Promise.reject(new Error(`broken off at ${at}`)) : Promise.resolve()

  test('the next start builds it, also when another one was broken off in that', async () => {
    await fleet.start({ followers, clock: still, onStep: breakOff })
    await fleet.loseDirectory(second)
    await fleet.supervisor.lostFollowers.look(payroll)
    expect(fleet.ids()).toEqual(numbered(1, 2))
    await fleet.supervisor.close()
    await expect(fleet.start({ followers, onStep: breakOff })).rejects.toThrow('broken off at promotion place')
    await fleet.start({ followers })
    expect(fleet.shard().state).toBe('open')
    await fleet.whole(1, 2, 4)
  })

  test('so does a restart of the primary', async () => {
    await fleet.start({
      followers,
      clock: still,
      onStep: (at) =>
        at === 'promotion place' && fleet.shard().state === 'open' ? breakOff(at, {}) : Promise.resolve(),
    })
    await fleet.loseDirectory(second)
    await fleet.supervisor.lostFollowers.look(payroll)
    expect(fleet.ids()).toEqual(numbered(1, 2))
    await fleet.supervisor.servers.kill(fleet.shard().primary)
    await restartNode(fleet.supervisor, fleet.shard().primary)
    expect(fleet.shard().state).toBe('open')
    await fleet.whole(1, 2, 4)
  })

  test('it is built before others', async () => {
    await fleet.start({ followers, clock: still })
    await fleet.loseDirectory(first)
    await fleet.loseDirectory(second)
    await fleet.supervisor.lostFollowers.look(payroll)
    await fleet.whole(1, 5, 4)
    expect(fleet.rebuilt).toEqual([`${payroll}.5 in eu-central`, `${payroll}.4 in eu-west`])
  })
})
