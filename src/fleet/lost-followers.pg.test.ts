import { readFile, rm, symlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, afterEach, describe, expect, test, vi } from 'vitest'
import { eventually } from '../../test/support/eventually.ts'
import { first, LosingFleet, numbered, second, still } from '../../test/support/losing-fleet.ts'
import { payroll } from '../../test/support/shard-fleet.ts'
import { present } from '../base/assert.ts'
import { silentProgress } from '../base/progress.ts'
import type { StepName } from '../base/step.ts'
import { seeFollowers } from './follower-sights.ts'
import { stalledForMs } from './following.ts'
import { bringBack, restartNode } from './node-restart.ts'
import { slotName } from './node-settings.ts'
import { callTo } from './operations/operations.ts'
import { nodeOf } from './shard-servers.ts'

/** V9, on real servers: followers whose directory or whose log is gone, of a shard that takes traffic. */

const fleet = new LosingFleet()
vi.setConfig({ testTimeout: 180_000 })

afterEach(() => fleet.end())
afterAll(() => fleet.remove())

describe('while the shard takes traffic', () => {
  test('a follower whose log is gone is built anew', async () => {
    // Its successor's slot is made under the settings that this one was lost by, where the supervisor looks in between.
    await fleet.start({ clock: still })
    await fleet.loseSlot(first)
    // The other one may be away for a moment, and nothing is retired then.
    await eventually(async () => {
      await fleet.supervisor.lostFollowers.look(payroll)
      return !fleet.ids().includes(first)
    })
    await fleet.whole(1, 3, 4)
  })

  test('and one whose server ends at every start', async () => {
    await fleet.start()
    await fleet.supervisor.servers.kill(first)
    await writeFile(join(fleet.directory(first), 'global', 'pg_control'), 'not what it was')
    await bringBack(fleet.supervisor, first)
    await fleet.whole(1, 3, 4)
    expect(fleet.alarms).toEqual([
      `${payroll}: ${first} is lost: its server ended at each of 5 starts; its place is built anew`,
    ])
  })

  test('the only one that its primary will wait for is tried again until that is back, however often it ended', async () => {
    await fleet.start({ followers: ['eu-central'], clock: still })
    const control = join(fleet.directory(first), 'global', 'pg_control')
    const { primary } = fleet.shard()
    await fleet.supervisor.servers.kill(first)
    await fleet.supervisor.servers.kill(primary)
    const before = await readFile(control)
    await writeFile(control, 'not what it was')
    const back = bringBack(fleet.supervisor, first)
    const tries = () => fleet.restarted.filter((detail) => detail.startsWith(first)).length
    await eventually(() => tries() > 1, 60_000)
    expect(fleet.ids()).toEqual(numbered(1, 2))
    await writeFile(control, before)
    await back
    await bringBack(fleet.supervisor, primary)
    expect(fleet.shard().state).toBe('open')
    await fleet.whole(1, 2)
  })

  test('one whose directory cannot be read is not taken for gone', async () => {
    await fleet.start({ clock: still })
    await fleet.supervisor.servers.kill(first)
    const unreadable = join(fleet.directory(first), 'global')
    await rm(unreadable, { recursive: true })
    await symlink('global', unreadable)
    const again = () => Promise.reject(new Error('not now'))
    await expect(fleet.supervisor.lostFollowers.start(nodeOf(fleet.shard(), first), again)).rejects.toThrow('not now')
  })

  test('one that alone acknowledged a commit counts for a promotion, until another has it', async () => {
    await fleet.start()
    await fleet.supervisor.servers.kill(second)
    await fleet.ask('create table acknowledged ()')
    await fleet.loseDirectory(first)
    await fleet.supervisor.lostFollowers.look(payroll)
    expect(fleet.ids()).toEqual(numbered(1, 2, 3))
    const failover = () => callTo(fleet.supervisor)('failover', { shard: payroll }, silentProgress)
    await expect(failover()).rejects.toMatchObject({
      message: expect.stringContaining('no promotion is safe') as unknown,
    })

    await restartNode(fleet.supervisor, second)
    await eventually(() => fleet.shard().state === 'open')
    await fleet.whole(1, 3, 4)
    await failover()
    expect(await fleet.ask(`select from pg_class where relname = 'acknowledged'`)).toHaveLength(1)
  })

  test.each(['retirement names', 'retirement barrier', 'retirement tell'] as const satisfies readonly StepName[])(
    'a retirement that is broken off at `%s` leaves the shard as it was, and is made again',
    async (step) => {
      let isBroken = false
      await fleet.start({
        clock: still,
        onStep: (at) => {
          if (at !== step || isBroken) return Promise.resolve()
          isBroken = true
          return Promise.reject(new Error(`broken off at ${step}`))
        },
      })
      await fleet.loseDirectory(first)
      const { nodes, retired } = fleet.shard()
      await expect(fleet.supervisor.lostFollowers.look(payroll)).rejects.toThrow(`broken off at ${step}`)
      expect(fleet.shard()).toMatchObject({ nodes, state: 'open' })
      expect(fleet.shard().retired).toEqual(retired)
      // A late one meets a primary that is started again, because its names are not those of the topology.
      await eventually(async () => {
        await fleet.supervisor.lostFollowers.look(payroll)
        return !fleet.ids().includes(first)
      })
      await fleet.whole(1, 3, 4)
    },
  )
})

test('how long a follower asked in vain begins anew where its primary was away', async () => {
  let aheadMs = 0
  await fleet.start({ clock: { ...still, monotonicMs: () => still.monotonicMs() + aheadMs } })
  await fleet.supervisor.servers.kill(first)
  await fleet.ask(`select pg_drop_replication_slot('${slotName(first)}')`)
  await restartNode(fleet.supervisor, first)
  // One that is in the middle of an attempt shows nothing.
  const look = async () => {
    for (let looks = 0; looks < 20; looks++) await fleet.supervisor.lostFollowers.look(payroll)
  }
  await eventually(
    async () => (await seeFollowers(fleet.supervisor.shardServers, fleet.shard()))[0]?.replay?.isExhausted === true,
  )
  await look()
  await fleet.supervisor.servers.kill(fleet.shard().primary)
  await fleet.supervisor.lostFollowers.look(payroll)
  aheadMs += stalledForMs
  // Who opens its shard again looks too: from then on they ask somebody.
  await bringBack(fleet.supervisor, fleet.shard().primary)
  await look()
  expect(fleet.alarms).toEqual([])
  expect(fleet.ids()).toEqual(numbered(1, 2, 3))
  aheadMs += stalledForMs
  await look()
  await fleet.whole(1, 3, 4)
})

test('what is seen of a follower that asks in vain, of one that a link keeps from its primary, and of one that streams', async () => {
  await fleet.start()
  await fleet.supervisor.servers.kill(first)
  await fleet.ask(`select pg_drop_replication_slot('${slotName(first)}')`)
  await restartNode(fleet.supervisor, first)
  const see = async () => {
    const sights = await seeFollowers(fleet.supervisor.shardServers, fleet.shard())
    return sights.map(({ node, replay, ...sight }) => ({ ...sight, id: node.id, isExhausted: replay?.isExhausted }))
  }
  const vain = { id: first, isStreaming: false, isSlotLost: false, isLinked: true }
  await eventually(async () => present((await see())[0], 'a follower').isExhausted === true)
  expect(await see()).toMatchObject([vain, { id: second, isStreaming: true, isSlotLost: false }])
  fleet.supervisor.links.cut(
    nodeOf(fleet.shard(), first).region,
    nodeOf(fleet.shard(), fleet.shard().primary).region,
    'both',
  )
  expect((await see())[0]).toMatchObject({ ...vain, isLinked: false })
})
