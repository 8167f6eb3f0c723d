import { mkdirSync } from 'node:fs'
import { readdir, rm } from 'node:fs/promises'
import { afterAll, beforeAll, beforeEach, expect, test, vi } from 'vitest'
import { eventually } from '../../test/support/eventually.ts'
import { temporaryFolder } from '../../test/support/fleet.ts'
import { present } from '../base/assert.ts'
import { silentProgress } from '../base/progress.ts'
import type { OnStep, StepName } from '../base/step.ts'
import type { NodeId, ShardName } from '../directory/topology.ts'
import { withConnection } from '../postgres/postgres.ts'
import { packageRelease } from '../postgres/release.ts'
import { createSlot } from '../postgres/server/follower.ts'
import { loadConfig } from './config.ts'
import { restartNode } from './node-restart.ts'
import { slotName } from './node-settings.ts'
import { callTo } from './operations/operations.ts'
import { nodeOf } from './shard-servers.ts'
import { Supervisor } from './supervisor.ts'

/**
 * V6: a promotion that fails behind its point of no return goes on by itself. One fleet, one failover after the other; each
 * fails at another step, and what was done before the step is done once more.
 */
const payroll = 'eu-west/payroll' as ShardName
vi.setConfig({ testTimeout: 120_000 })

let root: string
let supervisor: Supervisor
let alarms: string[] = []
let reached: StepName[] = []
let failing: (step: StepName) => Promise<void> = () => Promise.resolve()

const onStep: OnStep = async (step) => {
  reached.push(step)
  await failing(step)
}

async function start(): Promise<Supervisor> {
  const config = await loadConfig(
    {
      fleet: 'promotion',
      dataDir: `${root}/data`,
      regions: { 'eu-west': { jurisdiction: 'EU' }, 'eu-central': { jurisdiction: 'EU' } },
      // Of the one that is promoted only the place of the old primary is in another region: it is built before the opening.
      shards: { [payroll]: { durability: 'quorum', followers: ['eu-central', 'eu-central'], survive: 'region' } },
      domains: {},
      tenants: {},
    },
    root,
  )
  const progress = ({ step, detail }: { step: string; detail?: string }) => {
    if (step === 'alarm') alarms.push(detail ?? '')
  }
  return Supervisor.start({ config, wan: false, progress, onStep, release: await packageRelease() })
}

const shard = () => supervisor.topology.shard(payroll)
const isWhole = () => shard().state === 'open' && (shard().retired ?? []).length === 0
const region = () => nodeOf(shard(), shard().primary).region
/** To the other region. */
const failover = () => {
  const to = region() === 'eu-west' ? 'eu-central' : 'eu-west'
  return callTo(supervisor)('failover', { shard: payroll, to }, silentProgress)
}
const followers = (): readonly [NodeId, NodeId] => {
  const [first, second, ...rest] = shard().nodes.filter(({ id }) => id !== shard().primary)
  expect(rest).toEqual([])
  return [present(first, 'a follower').id, present(second, 'another follower').id]
}
const folders = async () => (await readdir(supervisor.home.serversDir)).toSorted()

async function ask<R>(text: string, id: NodeId = shard().primary): Promise<R[]> {
  const { rows } = await withConnection(supervisor.shardServers.adminTarget(nodeOf(shard(), id)), (admin) =>
    admin.query<R & Record<string, unknown>>(text),
  )
  return rows
}

const slots = async (id: NodeId) =>
  (await ask<{ slot: string }>('select slot_name::text as slot from pg_replication_slots order by 1', id)).map(
    ({ slot }) => slot,
  )

/** The number of failures that are left, at a step. */
function failAt(step: StepName, times: number): void {
  let left = times
  failing = (at) => (at === step && left-- > 0 ? Promise.reject(new Error(`broken off at ${step}`)) : Promise.resolve())
}

async function moveTo(wanted: string): Promise<void> {
  if (region() !== wanted) await failover()
  await eventually(isWhole, 60_000)
  expect(region()).toBe(wanted)
  reached = []
}

beforeAll(async () => {
  root = await temporaryFolder()
  supervisor = await start()
}, 120_000)

beforeEach(() => {
  alarms = []
  reached = []
  failing = () => Promise.resolve()
})

afterAll(async () => {
  await supervisor?.close()
  await rm(root, { recursive: true, force: true, maxRetries: 5 })
})

const steps = [
  'promotion stop',
  'promotion promote',
  'promotion history',
  'promotion follow',
  'promotion slots',
  'promotion build',
  'promotion place',
  'opening names',
  'opening data',
  'opening barrier',
  'opening tell',
] as const satisfies readonly StepName[]

test.each(steps)('V6: broken off at `%s`, it is told, goes on by itself, and opens the shard once', async (step) => {
  // From eu-west, the follower in the region of the new primary does not count.
  if (step === 'promotion build' || step === 'promotion place') await moveTo('eu-west')
  const before = shard()
  failAt(step, 2)
  await expect(failover()).rejects.toMatchObject({
    code: 'node_unavailable',
    message: `the promotion of ${payroll} is not finished: broken off at ${step}`,
  })
  expect(shard()).toMatchObject({ state: 'fenced', epoch: before.epoch + 1 })
  const { historyId } = shard()
  await eventually(() => shard().state === 'open', 60_000)
  expect(shard()).toMatchObject({ epoch: before.epoch + 1, historyId, promotion: undefined })
  // The second failure was met by nobody who had asked.
  expect(alarms).toEqual([`${payroll}: its promotion is not finished: broken off at ${step}`])
  expect(reached.filter((one) => one === step).length).toBeGreaterThanOrEqual(3)
  const histories = await ask<{ epoch: number; history_id: string }>('select epoch, history_id from holdfast.history')
  expect(histories.filter(({ epoch }) => epoch === before.epoch + 1)).toEqual([
    { epoch: before.epoch + 1, history_id: historyId },
  ])
  await eventually(isWhole, 60_000)
  expect(await folders()).toEqual(
    shard()
      .nodes.map(({ folder }) => folder)
      .toSorted(),
  )
  expect(await slots(shard().primary)).toEqual(followers().map(slotName).toSorted())
  expect(supervisor.servers.isRunning(before.primary)).toBe(false)
})

test('V6: a new primary that ends in the middle is started again by what goes on', async () => {
  const before = shard()
  let isKilled = false
  failing = async (step) => {
    if (step !== 'opening data' || isKilled) return
    isKilled = true
    await supervisor.servers.server(shard().primary).kill()
  }
  await expect(failover()).rejects.toMatchObject({ code: 'node_unavailable' })
  await eventually(() => shard().state === 'open', 60_000)
  expect(shard()).toMatchObject({ epoch: before.epoch + 1, promotion: undefined })
  await eventually(isWhole, 60_000)
})

test('V6: another failover, asked for while it goes on, finishes the same promotion', async () => {
  const before = shard()
  failAt('promotion history', 1)
  await Promise.all([expect(failover()).rejects.toThrow('broken off'), failover()])
  expect(shard()).toMatchObject({ epoch: before.epoch + 1, state: 'open' })
  await eventually(isWhole, 60_000)
  expect(shard().epoch).toBe(before.epoch + 1)
})

test.each(['promotion place', 'opening names'] as const)(
  'a place is filled behind the opening, and nothing of the old one is left, also when it is broken off at `%s`',
  async (step) => {
    await moveTo('eu-central')
    const before = shard()
    // A follower in eu-central counts: what is missing is built while the shard takes traffic.
    await failover()
    failAt(step, 1)
    await eventually(isWhole, 60_000)
    expect(reached).toContain(step)
    expect(await folders()).toEqual(
      shard()
        .nodes.map(({ folder }) => folder)
        .toSorted(),
    )
    expect(shard().nodes.map(({ id }) => id)).not.toContain(before.primary)
    const wanted = supervisor.shardServers.synchronousNames(payroll, shard())
    // Names that are not as they should be are mended by a start of the primary: one that asks meanwhile is sent away.
    await eventually(async () => {
      const asked = ask<{ names: string }>(`select current_setting('synchronous_standby_names') as names`)
      const [row] = await asked.catch(() => [])
      return row?.names === wanted && isWhole()
    }, 60_000)
  },
)

test('no slot is left for a node that does not follow: where one fetched what it lacked, and for one that is no more', async () => {
  const [primary, follower, other] = [
    shard().primary,
    ...shard()
      .nodes.map(({ id }) => id)
      .filter((id) => id !== shard().primary),
  ]
  const at = (id: NodeId) => supervisor.servers.target(nodeOf(shard(), id), 'holdfast_replication', 'test')
  const stray = present(follower, 'a follower')
  await createSlot(at(stray), slotName(present(other, 'another follower')))
  await createSlot(at(primary), slotName(`${payroll}.999` as NodeId))
  await supervisor.close()
  supervisor = await start()
  expect(await slots(stray)).toEqual([])
  expect(await slots(primary)).not.toContain(slotName(`${payroll}.999` as NodeId))
  expect(await slots(primary)).toContain(slotName(stray))
})

test('nor where a promotion is taken back that had begun to fetch', async () => {
  await moveTo('eu-west')
  const [fetched, away] = followers()
  await createSlot(supervisor.servers.target(nodeOf(shard(), fetched), 'holdfast_replication', 'test'), slotName(away))
  await supervisor.servers.kill(away)
  await expect(failover()).rejects.toThrow('no promotion is safe')
  expect(await slots(fetched)).toEqual([])
  await restartNode(supervisor, away)
})

test('why a promotion is refused is told, also where it cannot be taken back', async () => {
  await moveTo('eu-west')
  const [, away] = followers()
  const { primary } = shard()
  await supervisor.servers.kill(primary)
  await supervisor.servers.kill(away)
  const next = `${supervisor.home.topologyFile}.next`
  const told: string[] = []
  const progress = ({ step, detail }: { step: string; detail?: string }) => {
    // From here on the topology cannot be written.
    if (step === 'stop receiving') mkdirSync(next)
    if (step === 'alarm') told.push(detail ?? '')
  }
  try {
    const refused = callTo(supervisor)('failover', { shard: payroll, to: 'eu-central' }, progress)
    await expect(refused).rejects.toMatchObject({
      code: 'node_unavailable',
      message: expect.stringContaining('no promotion is safe') as string,
    })
    expect(told).toEqual([expect.stringMatching(`^${payroll}: a refused promotion is not taken back: `)])
  } finally {
    await rm(next, { recursive: true, force: true })
  }
  await restartNode(supervisor, away)
  await restartNode(supervisor, primary)
  await eventually(isWhole, 60_000)
})
