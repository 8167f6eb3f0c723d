import { afterAll, afterEach, beforeEach, expect, test, vi } from 'vitest'
import { gate } from '../../test/support/approval.ts'
import { eventually } from '../../test/support/eventually.ts'
import type { ShardFleetStart } from '../../test/support/shard-fleet.ts'
import { payroll, ShardFleet } from '../../test/support/shard-fleet.ts'
import { present } from '../base/assert.ts'
import type { Clock } from '../base/clock.ts'
import { systemClock } from '../base/clock.ts'
import { deferred } from '../base/deferred.ts'
import type { Progress } from '../base/progress.ts'
import { silentProgress } from '../base/progress.ts'
import type { OnStep } from '../base/step.ts'
import type { Epoch, HistoryId, NodeId } from '../directory/topology.ts'
import { Connection } from '../postgres/connection.ts'
import { withConnection } from '../postgres/postgres.ts'
import { createSlot } from '../postgres/server/follower.ts'
import { lives } from '../postgres/server/processes.ts'
import { restartNode } from './node-restart.ts'
import { slotName } from './node-settings.ts'
import { failOver } from './operations/failover.ts'
import { callTo } from './operations/operations.ts'
import { nodeOf } from './shard-servers.ts'

/** Each starts a fleet, some twice, and one waits until a barrier is given up. */
vi.setConfig({ testTimeout: 180_000 })

const historyId = '018f4a7e-0000-7000-8000-000000000002' as HistoryId

/** One follower, which every commit waits for. */
const fleet = new ShardFleet(['eu-central'])
let alarms: string[] = []

/** One that waits a second at most for what does not come. */
const impatient: Clock = { ...systemClock, sleep: (ms, signal) => systemClock.sleep(Math.min(ms, 1_000), signal) }

const progress: Progress = ({ step, detail }) => {
  if (step === 'alarm') alarms.push(detail ?? '')
}

const start = (options: ShardFleetStart = {}) => fleet.start({ progress, ...options })

async function ask<R>(text: string): Promise<R> {
  return present((await fleet.ask<R>(text))[0], 'one row')
}

beforeEach(async () => {
  alarms = []
  await start()
})

afterEach(() => fleet.end())
afterAll(() => fleet.remove())

/** What the topology says just before the follower is promoted. */
async function beginPromotion(): Promise<void> {
  const shard = fleet.shard()
  const [old, target] = shard.nodes
  await fleet.supervisor.servers.stop(shard.primary, 'fast')
  await fleet.supervisor.topology.replaceShard(payroll, {
    ...shard,
    state: 'fenced',
    epoch: 2 as Epoch,
    historyId,
    primary: present(target, 'a follower').id,
    nodes: [present(target, 'a follower')],
    promotion: { forkLsn: '0/3000000' },
    retired: [{ node: present(old, 'a primary'), successor: shard.nextNode }],
    nextNode: shard.nextNode + 1,
  })
}

test('V4: a promotion that a crash broke off is finished by the next start, and commits wait for a follower', async () => {
  await beginPromotion()
  const { retired = [], ...begun } = fleet.shard()
  const [place] = retired
  // What had been attached once and did not come along in the end.
  await createSlot(
    fleet.supervisor.servers.target(nodeOf(begun, begun.primary), 'holdfast_replication', 'test'),
    slotName(present(place, 'the old primary').node.id),
  )
  await fleet.supervisor.close()
  await start()
  const shard = fleet.shard()
  expect(shard).toMatchObject({ state: 'open', epoch: 2, historyId, primary: `${payroll}.2` })
  expect(shard.nodes.map(({ id }) => id)).toEqual([`${payroll}.2`, `${payroll}.3`])
  expect(shard.promotion).toBeUndefined()
  expect(await ask('select epoch, history_id, state from holdfast.shard')).toMatchObject({ epoch: 2, state: 'open' })
  expect(await ask('show synchronous_standby_names')).toEqual({
    synchronous_standby_names: `ANY 1 ("${payroll}.3")`,
  })
  expect(await ask('select holdfast.other_followers() as others')).toEqual({ others: null })
  expect(await ask(`select array_agg(slot_name::text) as slots from pg_replication_slots`)).toEqual({
    slots: [slotName(`${payroll}.3` as NodeId)],
  })
})

test('V4: and by the next failover of the shard, once', async () => {
  await beginPromotion()
  const { promoted } = await failOver(fleet.supervisor, { shard: payroll }, silentProgress)
  expect(promoted).toEqual({ node: `${payroll}.2`, region: 'eu-central', epoch: 2, historyId })
  expect(await ask('select count(*)::int as histories from holdfast.history')).toEqual({ histories: 2 })
  expect(fleet.shard().state).toBe('open')
})

test('a start that finishes a promotion takes up what the configuration gained, as any other', async () => {
  await beginPromotion()
  await fleet.supervisor.close()
  await start({ maxClockOffset: 250 })
  expect(await ask('select max_clock_offset_ms from holdfast.shard')).toEqual({ max_clock_offset_ms: 250 })
})

test('a shard that a cutover left closed keeps no fleet from starting', async () => {
  const shard = fleet.shard()
  const primary = nodeOf(shard, shard.primary)
  await withConnection(fleet.supervisor.shardServers.adminTarget(primary), (admin) =>
    admin.query('select holdfast.fence(2)'),
  )
  await fleet.supervisor.topology.replaceShard(payroll, {
    ...shard,
    epoch: 2 as Epoch,
    state: 'fenced',
    nodes: [primary],
  })
  await fleet.supervisor.close()
  await start()
  expect(fleet.shard().state).toBe('fenced')
})

test('what a promotion left to be built is built behind the opening, also when the supervisor was killed meanwhile', async () => {
  const shard = fleet.shard()
  const old = { ...present(shard.nodes[0], 'a primary'), id: `${payroll}.0` as NodeId, folder: 'eu-west~payroll.0' }
  await fleet.supervisor.topology.replaceShard(payroll, {
    ...shard,
    retired: [{ node: old, successor: shard.nextNode }],
    nextNode: shard.nextNode + 1,
  })
  await fleet.supervisor.close()
  await start({ followers: ['eu-west', 'eu-central'] })
  expect(fleet.shard().state).toBe('open')
  await eventually(() => fleet.shard().retired?.length === 0)
  expect(fleet.shard().nodes.map(({ id }) => id)).toEqual([1, 2, 3].map((n) => `${payroll}.${n}`))
  const following = `select count(*)::int as following from pg_stat_replication where state = 'streaming' and application_name like '${payroll}%'`
  expect(await ask(following)).toEqual({ following: 2 })
})

test('a place is built by one at a time: who comes with the same document shares it, and who comes with another one begins anew', async () => {
  const shard = fleet.shard()
  const retired = { node: present(shard.nodes[1], 'a follower'), successor: shard.nextNode }
  const next = { ...shard }
  const builds = [shard, shard, next, next].map((document) =>
    fleet.supervisor.rebuilding.build(payroll, document, retired),
  )
  const [first, second, third, fourth] = await Promise.allSettled(builds)
  expect([first?.status, second?.status]).toEqual(['rejected', 'rejected'])
  expect(third).toMatchObject({ status: 'fulfilled', value: { node: { id: `${payroll}.${shard.nextNode}` } } })
  expect(fourth).toEqual(third)
  expect(fleet.supervisor.servers.isRunning(`${payroll}.${shard.nextNode}`)).toBe(true)
})

test('V6: what has to be built before the opening is built out of turn', async () => {
  await fleet.supervisor.close()
  const { onStep, reached, release } = gate('promotion build')
  await start({ onStep })
  const failover = callTo(fleet.supervisor)('failover', { shard: payroll }, silentProgress)
  await reached
  try {
    let turns = 0
    void fleet.supervisor.exclusively(async () => turns++)
    await eventually(() => turns === 1)
  } finally {
    release()
  }
  expect(await failover).toMatchObject({ promoted: { node: `${payroll}.2`, epoch: 2 } })
  expect(fleet.shard()).toMatchObject({ state: 'open', promotion: undefined })
})

test.each([
  ['failover', () => failOver(fleet.supervisor, { shard: payroll }, silentProgress)],
  ['node.restart', () => restartNode(fleet.supervisor, `${payroll}.2` as NodeId)],
] as const)(
  'V6: a fleet that stops does not wait for the build behind a %s, and the next start goes on',
  async (_, ask) => {
    await fleet.supervisor.close()
    const { onStep, reached, release } = gate('promotion build')
    await start({ onStep })
    await beginPromotion()
    const asked = fleet.supervisor.run<unknown>(ask).catch((error: unknown) => error)
    await reached
    const closed = fleet.supervisor.close()
    release()
    expect(await asked).toMatchObject({ code: 'node_unavailable', cause: { name: 'AbortError' } })
    await closed
    expect(fleet.shard().state).toBe('fenced')
    await start()
    expect(fleet.shard()).toMatchObject({ state: 'open', epoch: 2, promotion: undefined })
  },
)

test('V5: an old primary that does not hear of its stop is killed', async () => {
  await fleet.supervisor.close()
  await start({ clock: impatient })
  const { primary } = fleet.shard()
  const { pid } = fleet.supervisor.servers.server(primary)
  process.kill(present(pid, 'it runs'), 'SIGSTOP')
  const { promoted } = await failOver(fleet.supervisor, { shard: payroll }, silentProgress)
  expect(promoted).toMatchObject({ node: `${payroll}.2`, epoch: 2 })
  expect(fleet.supervisor.servers.isRunning(primary)).toBe(false)
  expect(await lives(present(pid, 'it ran'))).toBe(false)
})

test('V2: a promotion that nobody is left for is refused with that, and the shard opens when its follower is back', async () => {
  const before = fleet.shard()
  const follower = `${payroll}.2` as NodeId
  await fleet.supervisor.servers.kill(follower)
  await expect(failOver(fleet.supervisor, { shard: payroll }, silentProgress)).rejects.toMatchObject({
    code: 'node_unavailable',
    message: expect.stringContaining('no promotion is safe') as unknown,
  })
  expect(fleet.shard().state).toBe('fenced')
  const { pid } = fleet.supervisor.servers.server(before.primary)
  await restartNode(fleet.supervisor, follower)
  await eventually(() => fleet.shard().state === 'open')
  expect(fleet.shard()).toEqual(before)
  expect(fleet.supervisor.servers.server(before.primary).pid).toBe(pid)
})

test('F2: a barrier opens no shard that was changed behind it', async () => {
  const { primary } = fleet.shard()
  const restarted = restartNode(fleet.supervisor, primary)
  await fleet.supervisor.exclusively(() => fleet.supervisor.topology.replaceShard(payroll, { ...fleet.shard() }))
  await restarted
  expect(fleet.shard().state).toBe('fenced')
})

/** As a gateway does that takes the shard for open, whatever the topology says. */
async function connectAsGateway(): Promise<void> {
  const shard = fleet.shard()
  const target = fleet.supervisor.servers.target(nodeOf(shard, shard.primary), 'holdfast_gateway', 'test')
  const connection = await Connection.connect(target, 10_000)
  connection.release()
}

test('F2: a start lets no gateway in before its barrier, whatever it has been told of the shard', async () => {
  await connectAsGateway()
  await fleet.supervisor.close()
  const [barrier, goOn] = [deferred<void>(), deferred<void>()]
  const before = fleet.supervisor
  const onStep: OnStep = async (step) => {
    if (step !== 'opening barrier') return
    barrier.resolve()
    await goOn.promise
  }
  const starting = start({ onStep })
  await barrier.promise
  try {
    expect(before.topology.shard(payroll).state).toBe('open')
    expect(await ask('select 1 as answer')).toEqual({ answer: 1 })
    await expect(connectAsGateway()).rejects.toMatchObject({ sqlState: '28000' })
  } finally {
    goOn.resolve()
    await starting
  }
  await connectAsGateway()
})

test('F2: nor does a primary that is started again, until its followers have what it shows', async () => {
  const { primary } = fleet.shard()
  const follower = `${payroll}.2` as NodeId
  await fleet.supervisor.servers.kill(follower)
  const restarted = restartNode(fleet.supervisor, primary)
  await eventually(async () => (await connectAsGateway().catch(sqlStateOf)) === '28000')
  expect(fleet.shard().state).toBe('fenced')
  await restartNode(fleet.supervisor, follower)
  await restarted
  await connectAsGateway()
})

const sqlStateOf = (error: unknown) => (error as { sqlState?: string }).sqlState

test('HZ-S5, V7: names that somebody empties close the shard, until its followers have everything that it shows', async () => {
  const named = { synchronous_standby_names: `ANY 1 ("${payroll}.2")` }
  expect(await ask('show synchronous_standby_names')).toEqual(named)
  const follower = `${payroll}.2` as NodeId
  await fleet.supervisor.servers.kill(follower)
  const shard = fleet.shard()
  await withConnection(fleet.supervisor.shardServers.adminTarget(nodeOf(shard, shard.primary)), async (admin) => {
    // Acknowledged by nobody.
    await admin.query('set synchronous_commit = local')
    await admin.query('create table alone ()')
    await admin.query("alter system set synchronous_standby_names = ''")
    await admin.query("alter system set holdfast.followers = ''")
    await admin.query('select pg_reload_conf()')
  })
  await eventually(() => alarms.length > 0)
  await eventually(async () => {
    const now = await ask<typeof named>('show synchronous_standby_names').catch(() => undefined)
    return now?.synchronous_standby_names === named.synchronous_standby_names
  })
  expect(fleet.shard().state).toBe('fenced')
  expect(await ask(`select to_regclass('alone') is not null as shown`)).toEqual({ shown: true })
  await expect(connectAsGateway()).rejects.toMatchObject({ sqlState: '28000' })
  await restartNode(fleet.supervisor, follower)
  await eventually(() => fleet.shard().state === 'open', 60_000)
  const target = fleet.supervisor.shardServers.adminTarget(nodeOf(shard, follower))
  const { rows } = await withConnection(target, (admin) =>
    admin.query(`select pg_last_wal_receive_lsn() is not null as follows`),
  )
  expect(rows).toEqual([{ follows: true }])
  await eventually(() =>
    withConnection(
      target,
      async (admin) => (await admin.query(`select from pg_class where relname = 'alone'`)).rowCount === 1,
    ),
  )
  await connectAsGateway()
  await fleet.supervisor.shardServers.barrier(nodeOf(shard, shard.primary), 10_000)
  expect(await ask('show holdfast.followers')).toEqual({ 'holdfast.followers': named.synchronous_standby_names })
  expect(alarms).toEqual([`${payroll}: somebody changed whom its commits wait for; it is put back`])
})

test('a fleet that closes lets an operation end first, begins none, and takes the servers from one that does not end', async () => {
  const call = callTo(fleet.supervisor)
  const told: string[] = []
  const restart = call('node.restart', { node: fleet.shard().primary }, silentProgress).then(
    () => told.push('restarted'),
    (error: unknown) => told.push(String(error)),
  )
  await fleet.supervisor.close()
  expect(told).toEqual(['restarted'])
  expect(fleet.shard().state).toBe('open')
  await restart
  await expect(call('failover', { shard: payroll }, silentProgress)).rejects.toMatchObject({
    code: 'fleet_not_running',
  })

  await start({ clock: impatient })
  void fleet.supervisor.run(() => new Promise(() => {}))
  await fleet.supervisor.close()
  expect(fleet.supervisor.servers.isRunning(fleet.shard().primary)).toBe(false)
})
