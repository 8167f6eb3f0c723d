import { cpSync } from 'node:fs'
import { rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { cleanUp } from '../../examples/payledger/clean-up.ts'
import { approveRun, createRun } from '../../examples/payledger/payledger.ts'
import { present } from '../../src/base/assert.ts'
import { deferred } from '../../src/base/deferred.ts'
import { silentProgress } from '../../src/base/progress.ts'
import type { OnStep } from '../../src/base/step.ts'
import type { Epoch, ShardName } from '../../src/directory/topology.ts'
import type { FleetConfigInput } from '../../src/fleet/config.ts'
import type { Gateway } from '../../src/fleet/gateway.ts'
import { callTo } from '../../src/fleet/operations/operations.ts'
import { lives } from '../../src/postgres/server/processes.ts'
import { abandonCutover, cutover } from '../../src/recovery/cutover.ts'
import { dropEnvironment } from '../../src/recovery/environment-drop.ts'
import { standingsOf } from '../../src/recovery/cutover-fleet.ts'
import { storeJournal } from '../../src/recovery/cutover-journal.ts'
import { EnvironmentRegistry } from '../../src/recovery/environment.ts'
import type { RecoveryContext } from '../../src/recovery/recovery.ts'
import { restore } from '../../src/recovery/restore.ts'
import { seedTenant, temporaryFolder, TestFleet } from '../support/fleet.ts'
import {
  archivedAt,
  cutoverFleet,
  onceTold,
  recoveryContext,
  takeBackups,
  unattributedOn,
} from '../support/recovery.ts'

/** A cutover that is broken off at every step: before the switch the fleet is as it was, from then on it goes forward. */

const tenant = 'globex-eu'
const actor = 'manager@globex-eu.example'
const payroll = 'eu-west/payroll'
const treasury = 'us-east/treasury'

let fleet: TestFleet
let gateway: Gateway
let context: RecoveryContext
let environment: string
let schema: string
let holding = false
const release = deferred<void>()

beforeAll(async () => {
  schema = await temporaryFolder()
  fleet = await TestFleet.open({ adapt: withOwnSchema })
  const onStep: OnStep = (step, { shard }) =>
    holding && step === 'global decision row' && shard === treasury ? release.promise : Promise.resolve()
  gateway = await fleet.gateway('eu-west', { onStep })
  await fleet.gateway('us-east', { onStep })
  await seedTenant(gateway, tenant)
  await takeBackups(fleet)
  await approve('jan')
  while ((await holds()).length === 0);
  const cleanUps: string[] = []
  for await (const { outcome } of cleanUp(gateway, { tenant })) cleanUps.push(outcome.transactionId)
  context = await recoveryContext(fleet)
  await archivedAt(context, (await approve('feb')).commitTimestamp)
  const target = { kind: 'before', transaction: cleanUps[0] ?? '' } as const
  environment = (await restore(context, { target, without: cleanUps })).id
})

afterAll(async () => {
  await fleet?.close()
  await rm(schema, { recursive: true })
})

/** The tables of the treasury come from a folder of this test. */
function withOwnSchema(config: FleetConfigInput): FleetConfigInput {
  const { treasury: domain, ...domains } = config.domains ?? {}
  if (typeof domain?.schema !== 'string') throw new Error('the tables of the treasury are made by files')
  cpSync(domain.schema, schema, { recursive: true })
  return { ...config, domains: { ...domains, treasury: { ...domain, schema } } }
}

async function approve(run: string) {
  await onceTold(() => createRun(gateway, { tenant, run, actor, department: 'hq' }))
  return onceTold(() => approveRun(gateway, { tenant, run, actor }))
}

async function holds(): Promise<string[]> {
  const rows = await fleet.ask<{ run_id: string }>(treasury, 'select run_id from treasury_holds order by run_id')
  return rows.map(({ run_id: run }) => run)
}

/** Runs the cutover and breaks it off the `nth` time that it reaches a step of a shard. */
function breakOff(step: Parameters<OnStep>[0], shard: string, nth = 1) {
  let seen = 0
  const onStep: OnStep = (reached, where) =>
    reached === step && where.shard === shard && ++seen === nth
      ? Promise.reject(new Error(`broken off at ${step} of ${shard}`))
      : Promise.resolve()
  return cutover({ ...context, onStep }, cutoverFleet(fleet), { environment })
}

const stateOf = () => fleet.ask<{ state: string; epoch: number }>(treasury, 'select state, epoch from holdfast.shard')

test('R9: a migration that the fleet was never started with refuses the cutover before anything is fenced', async () => {
  const file = join(schema, '9999-note.sql')
  const before = await stateOf()
  await writeFile(file, 'alter table treasury_holds add column note text')
  const refused = { code: 'check_failed', message: expect.stringContaining('9999-note.sql') as string }
  await expect(cutover(context, cutoverFleet(fleet), { environment })).rejects.toMatchObject(refused)
  expect(await stateOf()).toEqual(before)
  await rm(file)
})

test('R9, V6: nor does it begin while a promotion is under way, which would open its shard in the middle', async () => {
  const { topology } = fleet.supervisor
  const name = treasury as ShardName
  const before = await stateOf()
  const document = topology.shard(name)
  await topology.replaceShard(name, { ...document, promotion: { forkLsn: '0/0' } })
  const refused = { code: 'node_unavailable', message: `${treasury} is being promoted` }
  await expect(cutover(context, cutoverFleet(fleet), { environment })).rejects.toMatchObject(refused)
  expect(await stateOf()).toEqual(before)
  await topology.replaceShard(name, document)
})

test.each([
  ['cutover fence', payroll, 1],
  ['cutover fence', treasury, 1],
  ['restore redo', treasury, 2],
] as const)('R9: broken off at %s of %s, the fleet takes traffic as before', async (step, shard, nth) => {
  await expect(breakOff(step, shard, nth)).rejects.toThrow('broken off')
  expect(await stateOf()).toMatchObject([{ state: 'open' }])
  await approve(`after ${step} ${shard}`.replaceAll(/[^a-z]/g, '-'))
  expect(await holds()).not.toContain('jan')
})

test('R9: a cutover that could not even open the fleet again can be given up later', async () => {
  const helpless = { ...cutoverFleet(fleet), reopened: () => Promise.reject(new Error('the supervisor is gone')) }
  const onStep: OnStep = (step) =>
    step === 'restore redo' ? Promise.reject(new Error('broken off')) : Promise.resolve()
  const fencedOnce: OnStep = async (step, where) => {
    if ((await stateOf())[0]?.state === 'fenced') await onStep(step, where)
  }
  await expect(cutover({ ...context, onStep: fencedOnce }, helpless, { environment })).rejects.toThrow('broken off')
  // R11: the environment is the cutover's until that is run again or given up.
  await expect(dropEnvironment(context, environment)).rejects.toMatchObject({ code: 'environment_held' })
  await expect(abandonCutover(context, helpless, environment)).rejects.toMatchObject({
    code: 'node_unavailable',
    message: expect.stringContaining(treasury) as string,
  })
  await abandonCutover(context, cutoverFleet(fleet), environment)
  await approve('given-up')
  // Once more changes nothing.
  await abandonCutover(context, cutoverFleet(fleet), environment)
  expect(await stateOf()).toMatchObject([{ state: 'open' }])
})

test('R9: from the switch on it is run again and goes forward; a branch in doubt at the fence is settled by its record', async () => {
  holding = true
  const { transactionId } = await approve('in-doubt')
  expect(await fleet.prepared()).toHaveLength(1)
  await expect(breakOff('cutover switch', treasury)).rejects.toThrow('broken off')
  holding = false
  release.resolve()
  expect(await stateOf()).toMatchObject([{ state: 'fenced' }])
  await expect(abandonCutover(context, cutoverFleet(fleet), environment)).rejects.toMatchObject({
    code: 'check_failed',
  })
  // The environment's server of payroll is the fleet's primary by now; who looks at the environment would end it.
  const { pid } = fleet.supervisor.servers.server(fleet.primary(payroll).id)
  const check = () => callTo(fleet.supervisor)('invariants', { environment }, silentProgress)
  await expect(check()).rejects.toMatchObject({ code: 'check_failed' })
  await expect(dropEnvironment(context, environment)).rejects.toMatchObject({ code: 'environment_held' })
  expect(await lives(present(pid, 'it runs'))).toBe(true)
  // V8: a follower has all of the shard, and would take the traffic that the cutover then replaces.
  const [fenced] = await stateOf()
  await expect(fleet.failover(treasury)).rejects.toMatchObject({ code: 'shard_fenced' })
  expect(await stateOf()).toEqual([fenced])
  // Whoever opened it all the same: what it acknowledged since is not thrown away.
  await fleet.ask(treasury, `update holdfast.shard set state = 'open'`)
  const refused = { code: 'check_failed', message: expect.stringContaining('took traffic') as string }
  await expect(cutover(context, cutoverFleet(fleet), { environment })).rejects.toMatchObject(refused)
  expect(await stateOf()).toEqual([{ ...fenced, state: 'open' }])
  await fleet.ask(treasury, `update holdfast.shard set state = 'fenced'`)
  await expect(breakOff('cutover open', payroll)).rejects.toThrow('broken off')
  await expect(breakOff('cutover open', treasury)).rejects.toThrow('broken off')
  // One that it has opened may be promoted, and is left where it is then.
  await fleet.failover(payroll)
  const { historyId } = fleet.supervisor.topology.shard(payroll as ShardName)

  const report = await cutover(context, cutoverFleet(fleet), { environment })
  const again = await cutover(context, cutoverFleet(fleet), { environment })
  expect(again).toMatchObject({ shards: report.shards, leftOut: report.leftOut })
  expect(fleet.supervisor.topology.shard(payroll as ShardName)).toMatchObject({ historyId, state: 'open' })
  expect(await stateOf()).toMatchObject([{ state: 'open' }])
  expect(await holds()).toEqual(expect.arrayContaining(['jan', 'feb', 'in-doubt']))
  const log = await fleet.ask(payroll, 'select from holdfast.commit_log where transaction_id = $1', [transactionId])
  expect(log).toHaveLength(1)
  await approve('after')
})

test('V8: before the switch is decided, a shard whose primary is gone is promoted behind the fence', async () => {
  const { topology, servers } = fleet.supervisor
  const name = treasury as ShardName
  await fleet.whole(treasury)
  const { epoch } = topology.shard(name)
  const folder = new EnvironmentRegistry(context.environmentsDir).folderOf(environment)
  await fleet.ask(treasury, 'select holdfast.fence($1)', [epoch + 1])
  await expect(fleet.failover(treasury)).rejects.toMatchObject({ code: 'shard_fenced' })
  // What a supervisor leaves that is killed at the fence.
  await storeJournal(folder, { state: 'fencing', standings: [{ shard: name, epoch, isAlive: true }] })
  await servers.kill(topology.shard(name).primary)
  await fleet.failover(treasury)
  const promoted = { state: 'open', epoch: epoch + 2 }
  expect(topology.shard(name)).toMatchObject(promoted)
  await approve('promoted')
  // Run again, the cutover takes it as it is now; given up, it leaves it so.
  const fencing = [{ shard: name, epoch, isAlive: true }]
  const standings = standingsOf(cutoverFleet(fleet), [name], { acceptLoss: false, fencing })
  expect(standings).toEqual([{ shard: name, epoch: epoch + 2, isAlive: true }])
  await abandonCutover(context, cutoverFleet(fleet), environment)
  expect(await stateOf()).toEqual([promoted])
})

test('R9, V6: a shard whose promotion has begun behind the fence is left to it', async () => {
  const { topology } = fleet.supervisor
  const name = treasury as ShardName
  const document = topology.shard(name)
  const [fenced, promoting] = [document.epoch + 1, document.epoch + 2]
  const folder = new EnvironmentRegistry(context.environmentsDir).folderOf(environment)
  const standings = [{ shard: name, epoch: document.epoch, isAlive: true }]
  await fleet.ask(treasury, 'select holdfast.fence($1)', [fenced])
  await storeJournal(folder, { state: 'fencing', standings })
  await topology.replaceShard(name, { ...document, epoch: promoting as Epoch, promotion: { forkLsn: '0/0' } })
  await abandonCutover(context, cutoverFleet(fleet), environment)
  expect(await stateOf()).toEqual([{ state: 'fenced', epoch: fenced }])
  expect(topology.shard(name)).toMatchObject({ epoch: promoting, promotion: { forkLsn: '0/0' } })
  // Without one it is opened.
  await topology.replaceShard(name, document)
  await storeJournal(folder, { state: 'fencing', standings })
  await abandonCutover(context, cutoverFleet(fleet), environment)
  expect(await stateOf()).toEqual([{ state: 'open', epoch: fenced }])
})

test('V8, R9: a shard that is kept and whose primary is gone keeps no other closed, and is promoted behind the fence', async () => {
  const { topology, servers } = fleet.supervisor
  const name = payroll as ShardName
  await fleet.whole(payroll)
  await fleet.whole(treasury)
  await takeBackups(fleet)
  await approve('kept')
  while (!(await holds()).includes('kept'));
  await fleet.ask(treasury, `delete from treasury_holds where run_id = 'kept'`)
  context = await recoveryContext(fleet)
  await archivedAt(context, (await approve('behind')).commitTimestamp)
  const names = (await unattributedOn(context, treasury)).slice(-1)
  environment = (await restore(context, { target: { kind: 'before', transaction: names[0] ?? '' }, without: names })).id
  const { epoch, historyId } = topology.shard(name)
  await expect(breakOff('cutover open', payroll)).rejects.toThrow('broken off')
  expect(await stateOf()).toMatchObject([{ state: 'fenced' }])

  await servers.kill(topology.shard(name).primary)
  await expect(cutover(context, cutoverFleet(fleet), { environment })).rejects.toThrow()
  expect(topology.shard(treasury as ShardName)).toMatchObject({ state: 'open' })
  expect(await stateOf()).toMatchObject([{ state: 'open' }])
  await fleet.failover(payroll)
  const promoted = { state: 'open', epoch: epoch + 2 }
  expect(topology.shard(name)).toMatchObject(promoted)
  expect(topology.shard(name).historyId).not.toBe(historyId)

  const report = await cutover(context, cutoverFleet(fleet), { environment })
  expect(report.shards.map(({ kind, shard }) => [shard, kind])).toEqual([
    [payroll, 'keep'],
    [treasury, 'switch'],
  ])
  expect(topology.shard(name)).toMatchObject(promoted)
  const peer = await fleet.ask(payroll, 'select epoch from holdfast.peer where shard = $1', [treasury])
  expect(peer).toEqual([{ epoch: topology.shard(treasury as ShardName).epoch }])
  expect(await holds()).toEqual(expect.arrayContaining(['kept', 'behind']))
  await approve('kept-and-promoted')
})
