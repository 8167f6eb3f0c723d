import { readdir } from 'node:fs/promises'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { createRun } from '../../examples/payledger/payledger.ts'
import type { Gateway } from '../../src/fleet/gateway.ts'
import { deferred, type Deferred } from '../../src/base/deferred.ts'
import type { OnStep } from '../../src/base/step.ts'
import { type Environment, EnvironmentRegistry } from '../../src/recovery/environment.ts'
import { eventually } from '../support/eventually.ts'
import { seedTenant, TestFleet } from '../support/fleet.ts'
import { takeBackups } from '../support/recovery.ts'

/** Restores that are rehearsed: by the schedule of the configuration, and when somebody asks for one. */

const tenant = 'globex-eu'
let fleet: TestFleet
let gateway: Gateway
/** Of what the supervisor tells, by step. */
const told: { readonly step: string; readonly detail: string | undefined }[] = []
/** For the next drill, at the fetch of its first shard. */
let hold: { readonly reached: Deferred<void>; readonly release: Deferred<void> } | undefined

const onStep: OnStep = async (step) => {
  const held = hold
  if (step !== 'restore fetch' || held === undefined) return
  hold = undefined
  held.reached.resolve()
  await held.release.promise
}

/** Resolves when the next drill of the schedule is held, with what lets it go. */
async function drillHeld(): Promise<Deferred<void>> {
  const held = { reached: deferred<void>(), release: deferred<void>() }
  hold = held
  await held.reached.promise
  return held.release
}

beforeAll(async () => {
  fleet = await TestFleet.open({
    adapt: (config) => ({ ...config, drills: { every: '1s', target: '0s-ago' } }),
    onStep,
    progress: ({ step, detail }) => told.push({ step, detail }),
  })
  gateway = await fleet.gateway('eu-west')
  await fleet.gateway('us-east')
  await seedTenant(gateway, tenant)
})

afterAll(() => fleet?.close())

const environments = () => new EnvironmentRegistry(fleet.supervisor.home.environmentsDir).list()
const folders = () => readdir(fleet.supervisor.home.serversDir)

test('nothing is rehearsed before there is anything to restore from; then by schedule, and the report alone is left', async () => {
  const before = await folders()
  expect(await gateway.drills()).toEqual([])
  await createRun(gateway, { tenant, run: 'apr', actor: 'manager@globex-eu.example', department: 'hq' })
  await takeBackups(fleet)
  await eventually(async () => (await gateway.drills()).length >= 1, 120_000)
  const [first] = await gateway.drills()
  expect(first).toMatchObject({ verdict: 'passed' })
  await eventually(async () => (await environments()).length === 0)
  await eventually(async () => (await folders()).length === before.length)
})

test('one that is asked for leaves its report, and removes what another left that was killed', async () => {
  const registry = new EnvironmentRegistry(fleet.supervisor.home.environmentsDir)
  const killed: Environment = {
    id: 'killed',
    createdAt: '2026-04-02T10:00:00.000Z',
    state: 'restoring',
    target: { kind: 'end' },
    without: [],
    shards: [],
    report: null,
    isDrill: true,
  }
  await registry.store(killed)
  await registry.store({ ...killed, id: 'wanted', isDrill: false })
  const report = await gateway.drill({ at: 'end' })
  expect(report).toMatchObject({ verdict: 'passed', target: 'the end' })
  expect((await gateway.drills()).map(({ id }) => id)).toContain(report.id)
  const left = (await environments()).map(({ id }) => id)
  expect(left).toContain('wanted')
  expect(left).not.toContain('killed')
  await expect(gateway.drill({ at: 'yesterday' })).rejects.toMatchObject({ code: 'argument_invalid' })
})

test('one by schedule makes way to a restore that is asked for, leaves no report of it and is no alarm', async () => {
  const release = await drillHeld()
  const [held] = (await environments()).filter(({ isDrill }) => isDrill)
  expect(held).toBeDefined()
  const before = told.length
  const restored = gateway.restore({ at: 'end' })
  const gaveWay = () => told.slice(before).find(({ detail }) => detail?.includes('made way') === true)
  await eventually(() => gaveWay() !== undefined)
  expect(gaveWay()).toMatchObject({ step: 'drill' })
  const { environment } = await restored
  release.resolve()
  expect((await environments()).map(({ id }) => id)).toContain(environment)
  expect((await gateway.drills()).map(({ id }) => id)).not.toContain(held?.id)
  // It is tried again.
  const reports = (await gateway.drills()).length
  await eventually(async () => (await gateway.drills()).length > reports, 120_000)
})

test('F1: a fleet that stops ends a drill, and nothing of it is left', async () => {
  const release = await drillHeld()
  expect((await environments()).filter(({ isDrill }) => isDrill)).toHaveLength(1)
  await fleet.supervisor.close()
  expect((await environments()).filter(({ isDrill }) => isDrill)).toEqual([])
  release.resolve()
})
