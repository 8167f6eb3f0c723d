import { readFile, readdir, rm, symlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { isDeepStrictEqual } from 'node:util'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { eventually } from '../../test/support/eventually.ts'
import { temporaryFolder } from '../../test/support/fleet.ts'
import { releaseWith } from '../../test/support/releases.ts'
import { more } from '../../test/support/upgrading-fleet.ts'
import { present } from '../base/assert.ts'
import type { Clock } from '../base/clock.ts'
import { systemClock } from '../base/clock.ts'
import { deferred } from '../base/deferred.ts'
import { silentProgress } from '../base/progress.ts'
import type { OnStep, StepName } from '../base/step.ts'
import { noStep } from '../base/step.ts'
import type { NodeId, ShardName } from '../directory/topology.ts'
import { withConnection } from '../postgres/postgres.ts'
import type { Release } from '../postgres/release.ts'
import { packageRelease } from '../postgres/release.ts'
import { loadConfig } from './config.ts'
import { seeFollowers } from './follower-sights.ts'
import { stalledForMs } from './following.ts'
import { bringBack, restartNode } from './node-restart.ts'
import { slotName } from './node-settings.ts'
import { callTo } from './operations/operations.ts'
import { nodeOf } from './shard-servers.ts'
import { Supervisor } from './supervisor.ts'

/** V9, on real servers: followers whose directory or whose log is gone. */

const payroll = 'eu-west/payroll' as ShardName
const [first, second] = [`${payroll}.2` as NodeId, `${payroll}.3` as NodeId]
vi.setConfig({ testTimeout: 180_000 })

/** Resolves when the supervisor has looked at the followers. */
let firstLook = deferred<void>()

/** One on which it does not look a second time. */
const still: Clock = {
  ...systemClock,
  sleep: (ms, until) => {
    if (ms !== 5_000) return systemClock.sleep(ms, until)
    firstLook.resolve()
    return new Promise((_resolve, reject) => until?.addEventListener('abort', () => reject(until.reason as Error)))
  },
}

interface Start {
  readonly followers?: readonly string[]
  readonly clock?: Clock
  readonly release?: Release
  readonly onStep?: OnStep
}

let root: string
let supervisor: Supervisor
let alarms: string[] = []
let rebuilt: string[] = []
let restarted: string[] = []

async function start({
  followers = ['eu-central', 'eu-central'],
  clock = systemClock,
  release,
  onStep = noStep,
}: Start = {}): Promise<void> {
  const config = await loadConfig(
    {
      fleet: 'lost',
      dataDir: `${root}/data`,
      regions: { 'eu-west': { jurisdiction: 'EU' }, 'eu-central': { jurisdiction: 'EU' } },
      shards: {
        [payroll]: { durability: 'quorum', followers: [...followers], survive: 'region' },
      },
      domains: {},
      tenants: {},
    },
    root,
  )
  const progress = ({ step, detail }: { step: string; detail?: string }) => {
    if (step === 'rebuild') rebuilt.push(detail ?? '')
    if (step === 'restart') restarted.push(detail ?? '')
    if (step === 'alarm') alarms.push(detail ?? '')
  }
  const options = { config, wan: false, progress, clock, onStep, release: release ?? (await packageRelease()) }
  firstLook = deferred()
  supervisor = await Supervisor.start(options)
  // A late one would retire what the test has lost by then, and meet the step that the test breaks off.
  if (clock.sleep === still.sleep) await firstLook.promise
}

beforeEach(async () => {
  alarms = []
  rebuilt = []
  restarted = []
  root = await temporaryFolder()
})

afterEach(async () => {
  await supervisor.close()
  await rm(root, { recursive: true, force: true, maxRetries: 5 })
})

const shard = () => supervisor.topology.shard(payroll)
const ids = () => shard().nodes.map(({ id }) => id)
const numbered = (...numbers: number[]) => numbers.map((number) => `${payroll}.${number}`)
const directory = (id: NodeId) => supervisor.servers.dataDirOf(nodeOf(shard(), id).folder)

async function ask<R>(text: string, id: NodeId = shard().primary): Promise<R[]> {
  const { rows } = await withConnection(supervisor.shardServers.adminTarget(nodeOf(shard(), id)), (admin) =>
    admin.query<R & Record<string, unknown>>(text),
  )
  return rows
}

/** Every place filled, nothing left of who had it before, and commits that wait for who is there. */
async function whole(...numbers: number[]): Promise<void> {
  const isWhole = () => shard().state === 'open' && (shard().retired ?? []).length === 0
  await eventually(() => isWhole() && isDeepStrictEqual(ids(), numbered(...numbers)), 60_000)
  const followers = shard().nodes.filter(({ id }) => id !== shard().primary)
  await eventually(async () => (await readdir(supervisor.home.serversDir)).length === numbers.length)
  const slots = await ask<{ slot: string }>('select slot_name::text as slot from pg_replication_slots order by 1')
  expect(slots.map(({ slot }) => slot)).toEqual(followers.map(({ id }) => slotName(id)).toSorted())
  const wanted = supervisor.shardServers.synchronousNames(payroll, shard())
  await eventually(async () => {
    const [row] = await ask<{ names: string }>(`select current_setting('synchronous_standby_names') as names`)
    return row?.names === wanted
  })
  await supervisor.shardServers.barrier(nodeOf(shard(), shard().primary), 30_000)
}

/** As when its disk is lost, and somebody starts its server again. */
async function loseDirectory(id: NodeId): Promise<void> {
  await supervisor.servers.kill(id)
  await rm(directory(id), { recursive: true })
  expect(await supervisor.lostFollowers.start(nodeOf(shard(), id), () => restartNode(supervisor, id))).toBe(false)
}

/** A follower that is away while its primary writes more than it may keep. */
async function loseSlot(id: NodeId): Promise<void> {
  await supervisor.servers.kill(id)
  await ask('alter system set max_slot_wal_keep_size = 1')
  await ask('alter system set wal_keep_size = 0')
  await ask('select pg_reload_conf()')
  await eventually(async () => {
    await ask(`select pg_logical_emit_message(false, 'test', 'x'), pg_switch_wal()`)
    await ask('checkpoint')
    const [slot] = await ask<{ status: string }>(
      `select wal_status as status from pg_replication_slots where slot_name = '${slotName(id)}'`,
    )
    return slot?.status === 'lost'
  })
  await ask('alter system reset max_slot_wal_keep_size')
  await ask('alter system reset wal_keep_size')
  await ask('select pg_reload_conf()')
}

describe('a fleet starts', () => {
  test('without a follower whose directory is gone, and builds it anew', async () => {
    await start()
    const lost = directory(first)
    await supervisor.close()
    await rm(lost, { recursive: true })
    await start()
    expect(shard().state).toBe('open')
    expect(alarms).toEqual([
      `${payroll}: ${first} is lost: its data directory ${lost} is gone; its place is built anew`,
    ])
    await whole(1, 3, 4)
  })

  test('behind a new follower, where the one that is gone was the only one', async () => {
    await start({ followers: ['eu-central'] })
    const lost = directory(first)
    await supervisor.close()
    await rm(lost, { recursive: true })
    await start({ followers: ['eu-central'] })
    expect(shard().state).toBe('open')
    await whole(1, 3)
  })

  test('where none of the followers is left, and in a new release', async () => {
    await start()
    const lost = [directory(first), directory(second)]
    await supervisor.close()
    for (const one of lost) await rm(one, { recursive: true })
    await start({ release: await releaseWith(more) })
    expect(shard()).toMatchObject({ state: 'open', epoch: 2 })
    await whole(1, 4, 5)
  })

  test('in a new release without a follower whose log is gone', async () => {
    await start({ clock: still })
    await loseSlot(first)
    expect(ids()).toEqual(numbered(1, 2, 3))
    await supervisor.close()
    await start({ release: await releaseWith(more) })
    expect(shard()).toMatchObject({ state: 'open', epoch: 2 })
    expect(alarms).toEqual([
      `${payroll}: ${first} is lost: its primary no longer keeps the log that it lacks; its place is built anew`,
    ])
    await whole(1, 3, 4)
  })
})

describe('where the only follower that counts was retired, and its successor is not built', () => {
  const followers = ['eu-west', 'eu-central']
  const breakOff: OnStep = (at) =>
    at === 'promotion place' ? Promise.reject(new Error(`broken off at ${at}`)) : Promise.resolve()

  test('the next start builds it, also when another one was broken off in that', async () => {
    await start({ followers, clock: still, onStep: breakOff })
    await loseDirectory(second)
    await supervisor.lostFollowers.look(payroll)
    expect(ids()).toEqual(numbered(1, 2))
    await supervisor.close()
    await expect(start({ followers, onStep: breakOff })).rejects.toThrow('broken off at promotion place')
    await start({ followers })
    expect(shard().state).toBe('open')
    await whole(1, 2, 4)
  })

  test('so does a restart of the primary', async () => {
    await start({
      followers,
      clock: still,
      onStep: (at) => (at === 'promotion place' && shard().state === 'open' ? breakOff(at, {}) : Promise.resolve()),
    })
    await loseDirectory(second)
    await supervisor.lostFollowers.look(payroll)
    expect(ids()).toEqual(numbered(1, 2))
    await supervisor.servers.kill(shard().primary)
    await restartNode(supervisor, shard().primary)
    expect(shard().state).toBe('open')
    await whole(1, 2, 4)
  })

  test('it is built before others', async () => {
    await start({ followers, clock: still })
    await loseDirectory(first)
    await loseDirectory(second)
    await supervisor.lostFollowers.look(payroll)
    await whole(1, 5, 4)
    expect(rebuilt).toEqual([`${payroll}.5 in eu-central`, `${payroll}.4 in eu-west`])
  })
})

describe('while the shard takes traffic', () => {
  test('a follower whose log is gone is built anew', async () => {
    await start()
    await loseSlot(first)
    await whole(1, 3, 4)
  })

  test('and one whose server ends at every start', async () => {
    await start()
    await supervisor.servers.kill(first)
    await writeFile(join(directory(first), 'global', 'pg_control'), 'not what it was')
    await bringBack(supervisor, first)
    await whole(1, 3, 4)
    expect(alarms).toEqual([
      `${payroll}: ${first} is lost: its server ended at each of 5 starts; its place is built anew`,
    ])
  })

  test('the only one that its primary will wait for is tried again until that is back, however often it ended', async () => {
    await start({ followers: ['eu-central'], clock: still })
    const control = join(directory(first), 'global', 'pg_control')
    const { primary } = shard()
    await supervisor.servers.kill(first)
    await supervisor.servers.kill(primary)
    const before = await readFile(control)
    await writeFile(control, 'not what it was')
    const back = bringBack(supervisor, first)
    const tries = () => restarted.filter((detail) => detail.startsWith(first)).length
    await eventually(() => tries() > 1, 60_000)
    expect(ids()).toEqual(numbered(1, 2))
    await writeFile(control, before)
    await back
    await bringBack(supervisor, primary)
    expect(shard().state).toBe('open')
    await whole(1, 2)
  })

  test('one whose directory cannot be read is not taken for gone', async () => {
    await start({ clock: still })
    await supervisor.servers.kill(first)
    const unreadable = join(directory(first), 'global')
    await rm(unreadable, { recursive: true })
    await symlink('global', unreadable)
    const again = () => Promise.reject(new Error('not now'))
    await expect(supervisor.lostFollowers.start(nodeOf(shard(), first), again)).rejects.toThrow('not now')
  })

  test('one that alone acknowledged a commit counts for a promotion, until another has it', async () => {
    await start()
    await supervisor.servers.kill(second)
    await ask('create table acknowledged ()')
    await loseDirectory(first)
    await supervisor.lostFollowers.look(payroll)
    expect(ids()).toEqual(numbered(1, 2, 3))
    const failover = () => callTo(supervisor)('failover', { shard: payroll }, silentProgress)
    await expect(failover()).rejects.toMatchObject({
      message: expect.stringContaining('no promotion is safe') as unknown,
    })

    await restartNode(supervisor, second)
    await eventually(() => shard().state === 'open')
    await whole(1, 3, 4)
    await failover()
    expect(await ask(`select from pg_class where relname = 'acknowledged'`)).toHaveLength(1)
  })

  test.each(['retirement names', 'retirement barrier', 'retirement tell'] as const satisfies readonly StepName[])(
    'a retirement that is broken off at `%s` leaves the shard as it was, and is made again',
    async (step) => {
      let isBroken = false
      await start({
        clock: still,
        onStep: (at) => {
          if (at !== step || isBroken) return Promise.resolve()
          isBroken = true
          return Promise.reject(new Error(`broken off at ${step}`))
        },
      })
      await loseDirectory(first)
      const { nodes, retired } = shard()
      await expect(supervisor.lostFollowers.look(payroll)).rejects.toThrow(`broken off at ${step}`)
      expect(shard()).toMatchObject({ nodes, state: 'open' })
      expect(shard().retired).toEqual(retired)
      await supervisor.lostFollowers.look(payroll)
      await whole(1, 3, 4)
    },
  )
})

test('how long a follower asked in vain begins anew where its primary was away', async () => {
  let aheadMs = 0
  await start({ clock: { ...still, monotonicMs: () => still.monotonicMs() + aheadMs } })
  await supervisor.servers.kill(first)
  await ask(`select pg_drop_replication_slot('${slotName(first)}')`)
  await restartNode(supervisor, first)
  // One that is in the middle of an attempt shows nothing.
  const look = async () => {
    for (let looks = 0; looks < 20; looks++) await supervisor.lostFollowers.look(payroll)
  }
  await eventually(async () => (await seeFollowers(supervisor.shardServers, shard()))[0]?.replay?.isExhausted === true)
  await look()
  await supervisor.servers.kill(shard().primary)
  await supervisor.lostFollowers.look(payroll)
  await bringBack(supervisor, shard().primary)
  aheadMs += stalledForMs
  await look()
  expect(ids()).toEqual(numbered(1, 2, 3))
  aheadMs += stalledForMs
  await look()
  await whole(1, 3, 4)
})

test('what is seen of a follower that asks in vain, of one that a link keeps from its primary, and of one that streams', async () => {
  await start()
  await supervisor.servers.kill(first)
  await ask(`select pg_drop_replication_slot('${slotName(first)}')`)
  await restartNode(supervisor, first)
  const see = async () => {
    const sights = await seeFollowers(supervisor.shardServers, shard())
    return sights.map(({ node, replay, ...sight }) => ({ ...sight, id: node.id, isExhausted: replay?.isExhausted }))
  }
  const vain = { id: first, isStreaming: false, isSlotLost: false, isLinked: true }
  await eventually(async () => present((await see())[0], 'a follower').isExhausted === true)
  expect(await see()).toMatchObject([vain, { id: second, isStreaming: true, isSlotLost: false }])
  supervisor.links.cut(nodeOf(shard(), first).region, nodeOf(shard(), shard().primary).region, 'both')
  expect((await see())[0]).toMatchObject({ ...vain, isLinked: false })
})
