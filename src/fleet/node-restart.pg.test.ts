import { rm } from 'node:fs/promises'
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { eventually } from '../../test/support/eventually.ts'
import { temporaryFolder } from '../../test/support/fleet.ts'
import { present } from '../base/assert.ts'
import type { Clock } from '../base/clock.ts'
import { systemClock } from '../base/clock.ts'
import { silentProgress } from '../base/progress.ts'
import type { OnStep } from '../base/step.ts'
import { noStep } from '../base/step.ts'
import type { NodeId, ShardName } from '../directory/topology.ts'
import { withConnection } from '../postgres/postgres.ts'
import { packageRelease } from '../postgres/release.ts'
import { loadConfig } from './config.ts'
import { bringBack, restartNode } from './node-restart.ts'
import { mayOpen } from './opening.ts'
import { nodeOf } from './shard-servers.ts'
import { Supervisor } from './supervisor.ts'

/** A primary that is started again where nobody is left who could acknowledge its barrier, on real servers. */

const payroll = 'eu-west/payroll' as ShardName
const follower = `${payroll}.2` as NodeId
vi.setConfig({ testTimeout: 180_000 })

/** One on which nobody looks at the followers of a shard by himself. */
const still: Clock = {
  ...systemClock,
  sleep: (ms, until) => systemClock.sleep(ms === 5_000 ? 3_600_000 : ms, until),
}

let root: string
let supervisor: Supervisor

async function start(onStep: OnStep = noStep): Promise<void> {
  const config = await loadConfig(
    {
      fleet: 'restart',
      dataDir: `${root}/data`,
      regions: { 'eu-west': { jurisdiction: 'EU' }, 'eu-central': { jurisdiction: 'EU' } },
      shards: { [payroll]: { durability: 'quorum', followers: ['eu-central'], survive: 'region' } },
      domains: {},
      tenants: {},
    },
    root,
  )
  const release = await packageRelease()
  supervisor = await Supervisor.start({ config, wan: false, progress: silentProgress, clock: still, onStep, release })
}

beforeEach(async () => {
  root = await temporaryFolder()
})

afterEach(async () => {
  await supervisor.close()
  await rm(root, { recursive: true, force: true, maxRetries: 5 })
})

const shard = () => supervisor.topology.shard(payroll)
const ids = () => shard().nodes.map(({ id }) => id)

async function ask<R>(text: string): Promise<R[]> {
  const target = supervisor.shardServers.adminTarget(nodeOf(shard(), shard().primary))
  const { rows } = await withConnection(target, (admin) => admin.query<R & Record<string, unknown>>(text))
  return rows
}

async function loseFollower(): Promise<void> {
  await supervisor.servers.kill(follower)
  const node = nodeOf(shard(), follower)
  await rm(supervisor.servers.dataDirOf(node.folder), { recursive: true })
  expect(await supervisor.lostFollowers.start(node, () => restartNode(supervisor, follower))).toBe(false)
}

test('V9: the only one that its barrier would wait for is lost: its place is built anew before it', async () => {
  await start()
  const { primary } = shard()
  await supervisor.servers.kill(primary)
  await loseFollower()
  await bringBack(supervisor, primary)
  expect(shard().state).toBe('open')
  expect(ids()).toEqual([primary, `${payroll}.3`])
  await supervisor.shardServers.barrier(nodeOf(shard(), primary), 30_000)
})

/** A base backup begins with a checkpoint, which this one does not make. */
async function holdCheckpointer(): Promise<() => void> {
  const [found] = await ask<{ pid: number }>(`select pid from pg_stat_activity where backend_type = 'checkpointer'`)
  const { pid } = present(found, 'a checkpointer')
  process.kill(pid, 'SIGSTOP')
  return () => process.kill(pid, 'SIGCONT')
}

test('V9: what its barrier waits for is built out of turn, and a fleet that stops does not wait for that', async () => {
  let goOn: () => void = () => undefined
  await start(async (step) => {
    if (step === 'promotion build') goOn = await holdCheckpointer()
  })
  const { primary } = shard()
  await supervisor.servers.kill(primary)
  await loseFollower()
  const ended = supervisor.run(() => restartNode(supervisor, primary)).catch((error: unknown) => error)
  let closed = Promise.resolve()
  try {
    const built = `select from pg_stat_activity where backend_type = 'walsender' and query like 'BASE_BACKUP%'`
    await eventually(async () => (await ask(built).catch(() => [])).length > 0, 60_000)
    let turns = 0
    void supervisor.exclusively(async () => turns++)
    await eventually(() => turns === 1)
    closed = supervisor.close()
    expect(await ended).toMatchObject({ name: 'AbortError' })
  } finally {
    goOn()
    await closed
  }
  await start()
  expect(shard().state).toBe('open')
  expect(ids()).toEqual([primary, `${payroll}.3`])
})

test('a lock that outlived the restart of its server keeps others waiting for seconds, and is told', async () => {
  await start()
  const { primary } = shard()
  await withConnection(supervisor.shardServers.adminTarget(nodeOf(shard(), primary)), async (admin) => {
    await admin.query('begin')
    await admin.query('lock table holdfast.shard in access exclusive mode')
    await admin.query(`prepare transaction 'held'`)
  })
  const restarted = supervisor.run(() => restartNode(supervisor, primary)).catch((error: unknown) => error)
  const waiting = `select from pg_locks where relation = 'holdfast.shard'::regclass and not granted`
  await eventually(async () => (await ask(waiting).catch(() => [])).length > 0, 30_000)
  try {
    let turns = 0
    void supervisor.exclusively(async () => turns++)
    await eventually(() => turns === 1, 30_000)
    expect(await restarted).toMatchObject({
      code: 'node_unavailable',
      message: expect.stringContaining('no answer within 10000 ms') as unknown,
    })
  } finally {
    await ask(`rollback prepared 'held'`)
  }
  await restartNode(supervisor, primary)
  expect(shard().state).toBe('open')
})

test('a primary that does not answer whether its shard is open keeps its turn for seconds', async () => {
  await start()
  await withConnection(supervisor.shardServers.adminTarget(nodeOf(shard(), shard().primary)), async (admin) => {
    await admin.query('begin')
    await admin.query('lock table holdfast.shard in access exclusive mode')
    await expect(mayOpen(supervisor, { ...shard(), state: 'fenced' })).rejects.toThrow('no answer within 10000 ms')
    await admin.query('rollback')
  })
})
