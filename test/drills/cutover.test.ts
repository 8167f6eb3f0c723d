import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { cleanUp } from '../../examples/payledger/clean-up.ts'
import { approveRun, createRun, readRun } from '../../examples/payledger/payledger.ts'
import { silentProgress } from '../../src/base/progress.ts'
import type { OnStep } from '../../src/base/step.ts'
import type { ShardName } from '../../src/directory/topology.ts'
import type { Gateway } from '../../src/fleet/gateway.ts'
import { callTo } from '../../src/fleet/operations/operations.ts'
import type { Hlc } from '../../src/hlc/hlc.ts'
import { cutover } from '../../src/recovery/cutover.ts'
import { dropEnvironment } from '../../src/recovery/environment-drop.ts'
import { listEnvironments } from '../../src/recovery/environment-servers.ts'
import type { RecoveryContext } from '../../src/recovery/recovery.ts'
import { restore } from '../../src/recovery/restore.ts'
import { seedTenant, TestFleet } from '../support/fleet.ts'
import {
  archivedAt,
  archivedOn,
  cutoverFleet,
  onceTold,
  recoveryContext,
  takeBackups,
  unattributedOn,
} from '../support/recovery.ts'

/** After the bad day: the environment without the clean-up job becomes the fleet. */

const tenant = 'globex-eu'
const actor = 'manager@globex-eu.example'
const payroll = 'eu-west/payroll'
const treasury = 'us-east/treasury'

let fleet: TestFleet
let gateway: Gateway
/** Keeps the archive of the treasury. */
let archivist: Gateway

beforeAll(async () => {
  fleet = await TestFleet.open()
  gateway = await fleet.gateway('eu-west')
  archivist = await fleet.gateway('us-east')
  await seedTenant(gateway, tenant)
  await takeBackups(fleet)
})

afterAll(() => fleet?.close())

async function approve(run: string): Promise<{ timestamp: Hlc; session: string; id: string }> {
  await onceTold(() => createRun(gateway, { tenant, run, actor, department: 'hq' }))
  const approval = await onceTold(() => approveRun(gateway, { tenant, run, actor }))
  const { commitTimestamp, session, transactionId } = approval
  return { timestamp: commitTimestamp, session, id: transactionId }
}

async function holds(): Promise<string[]> {
  const rows = await fleet.ask<{ run_id: string }>(treasury, 'select run_id from treasury_holds order by run_id')
  return rows.map(({ run_id: run }) => run)
}

async function contextAt(timestamp: Hlc): Promise<RecoveryContext> {
  const context = await recoveryContext(fleet)
  await archivedAt(context, timestamp)
  return context
}

describe('cutover', () => {
  test('R9: nothing acknowledged is lost but what was left out, also what came after the restore', async () => {
    const before = await approve('jan')
    while ((await holds()).length === 0);
    const cleanUps: string[] = []
    let sessionOfCleanUp = ''
    for await (const { outcome } of cleanUp(gateway, { tenant })) {
      cleanUps.push(outcome.transactionId)
      sessionOfCleanUp = outcome.session
    }
    const { timestamp } = await approve('between')
    const context = await contextAt(timestamp)
    const request = { target: { kind: 'before', transaction: cleanUps[0] ?? '' }, without: cleanUps } as const
    const { id, verdict } = await restore(context, request)
    expect(verdict).toBe('passed')
    await approve('late')

    const report = await cutover(context, cutoverFleet(fleet), { environment: id })
    expect(report.shards.map(({ kind, epoch }) => [kind, epoch])).toEqual([
      ['switch', 3],
      ['switch', 3],
    ])
    expect(report.leftOut.toSorted()).toEqual(cleanUps.toSorted())
    expect(report.gates.every(({ ok }) => ok)).toBe(true)
    expect(await holds()).toEqual(['between', 'jan', 'late'])
    expect(await listEnvironments(context)).toMatchObject([{ state: 'adopted' }])
    // R11: the fleet runs on it.
    await expect(dropEnvironment(context, id)).rejects.toMatchObject({ code: 'environment_held' })

    await approve('after')
    const run = await readRun(gateway, { tenant, run: 'jan', session: before.session })
    expect(run).toMatchObject({ run: { status: 'approved' } })
    const told = gateway.read({ tenant, session: sessionOfCleanUp }, (read) => read.query('treasury', 'select 1'))
    await expect(told).rejects.toMatchObject({ code: 'history_rewritten' })
  })

  test('R9: a shard that loses nothing keeps its servers and its history; raw SQL is left out by its position', async () => {
    await takeBackups(fleet)
    await approve('feb')
    while (!(await holds()).includes('feb'));
    await fleet.ask(treasury, `delete from treasury_holds where run_id in ('feb', 'jan')`)
    const context = await contextAt((await approve('mar')).timestamp)
    const names = await unattributedOn(context, treasury)
    expect(names).toHaveLength(1)
    const before = fleet.supervisor.topology.document.shards
    const request = { target: { kind: 'before', transaction: names[0] ?? '' }, without: names } as const
    const { id, verdict } = await restore(context, request)
    expect(verdict).toBe('passed')

    const report = await cutover(context, cutoverFleet(fleet), { environment: id })
    expect(report.shards.map(({ kind, shard }) => [shard, kind])).toEqual([
      [payroll, 'keep'],
      [treasury, 'switch'],
    ])
    expect(report.leftOut).toEqual(names)
    expect(await holds()).toEqual(['after', 'between', 'feb', 'jan', 'late', 'mar'])
    const after = fleet.supervisor.topology.document.shards
    expect(after[payroll as ShardName]?.historyId).toBe(before[payroll as ShardName]?.historyId)
    expect(after[treasury as ShardName]?.historyId).not.toBe(before[treasury as ShardName]?.historyId)
    await approve('apr')
  })

  test('R9: a cutover that would lose what came after its target is refused before anything is fenced', async () => {
    await takeBackups(fleet)
    const { id: lost } = await approve('may')
    const context = await contextAt((await approve('jun')).timestamp)
    const { id } = await restore(context, { target: { kind: 'before', transaction: lost }, without: [] })
    const attempt = cutover(context, cutoverFleet(fleet), { environment: id })
    await expect(attempt).rejects.toMatchObject({
      code: 'check_failed',
      message: expect.stringContaining('would lose'),
    })
    await approve('jul')
    await dropEnvironment(context, id)
  })

  test('R9: a shard whose primary ends during the catch up is not gone: its followers have what the archive has not', async () => {
    await takeBackups(fleet)
    const context = await contextAt((await approve('primary-up')).timestamp)
    const { id } = await restore(context, { target: { kind: 'end' }, without: [] })
    await archivist.close()
    await approve('primary-down')
    while (!(await holds()).includes('primary-down'));
    const primary = fleet.primary(treasury).id
    const onStep: OnStep = async (step) => {
      if (step === 'restore redo') await fleet.supervisor.servers.kill(primary)
    }
    const attempt = cutover({ ...context, onStep }, cutoverFleet(fleet), { environment: id, acceptLoss: true })
    await expect(attempt).rejects.toMatchObject({
      code: 'node_unavailable',
      message: expect.stringContaining(treasury),
    })
    await callTo(fleet.supervisor)('node.restart', { node: primary }, silentProgress)
    expect(await holds()).toContain('primary-down')
    // Nothing was fenced.
    await approve('primary-back')
    archivist = await fleet.gateway('us-east')
    await dropEnvironment(context, id)
  })

  test('R9: a shard whose every server is gone is restored to the end of its archive and taken over, on a word', async () => {
    await takeBackups(fleet)
    const context = await contextAt((await approve('aug')).timestamp)
    for (const node of fleet.nodesOf(treasury)) await fleet.supervisor.servers.kill(node)
    const { id, verdict } = await restore(context, { target: { kind: 'end' }, without: [] })
    expect(verdict).toBe('passed')
    const unsaid = cutover(context, cutoverFleet(fleet), { environment: id })
    await expect(unsaid).rejects.toMatchObject({ code: 'check_failed', message: expect.stringContaining(treasury) })
    const report = await cutover(context, cutoverFleet(fleet), { environment: id, acceptLoss: true })
    expect(report.shards.map(({ kind, shard }) => [shard, kind])).toEqual([
      [payroll, 'keep'],
      [treasury, 'switch'],
    ])
    expect(report.leftOut).toEqual([])
    expect(await holds()).toContain('aug')
    await approve('sep')
  })

  test('R9: where a promotion has moved the primary, the followers are built in the places that are empty', async () => {
    const places = () => fleet.nodesOf(payroll).map((id) => fleet.node(id).region)
    const configured = places().toSorted()
    await fleet.failover(payroll, 'eu-central')
    await fleet.whole(payroll)
    await takeBackups(fleet)
    await approve('oct')
    await fleet.ask(payroll, `update employees set name = 'nobody'`)
    const context = await contextAt((await approve('nov')).timestamp)
    const names = await unattributedOn(context, payroll)
    expect(names).toHaveLength(1)
    const request = { target: { kind: 'before', transaction: names[0] ?? '' }, without: names } as const
    const { id, verdict } = await restore(context, request)
    expect(verdict).toBe('passed')
    const report = await cutover(context, cutoverFleet(fleet), { environment: id })
    expect(report.leftOut).toEqual(names)
    expect(fleet.primary(payroll).region).toBe('eu-central')
    expect(places().toSorted()).toEqual(configured)
    expect(await fleet.ask(payroll, `select from employees where name = 'nobody'`)).toEqual([])
    await approve('dec')
  })

  test('R2: what a lost shard lacks of a global transaction is named, and given up as a whole', async () => {
    await takeBackups(fleet)
    const context = await contextAt((await approve('whole')).timestamp)
    await archivist.close()
    const half = await approve('half')
    await archivedOn(context, payroll, half.timestamp)
    for (const node of fleet.nodesOf(treasury)) await fleet.supervisor.servers.kill(node)

    const torn = await restore(context, { target: { kind: 'end' }, without: [] })
    expect(torn.verdict).toBe('failed')
    expect(torn.checks.data.find(({ name }) => name === 'global transactions are whole')).toMatchObject({
      ok: false,
      detail: `${half.id} is at its home ${payroll} and not on ${treasury}`,
    })
    await dropEnvironment(context, torn.id)

    const { id, verdict } = await restore(context, { target: { kind: 'end' }, without: [half.id] })
    expect(verdict).toBe('passed')
    const report = await cutover(context, cutoverFleet(fleet), { environment: id, acceptLoss: true })
    expect(report.leftOut).toEqual([half.id])
    archivist = await fleet.gateway('us-east')
    await approve('healed')
    const runs = await fleet.ask(
      payroll,
      `select id, status from payroll_runs where id in ('half', 'whole') order by id`,
    )
    expect(runs).toEqual([
      { id: 'half', status: 'draft' },
      { id: 'whole', status: 'approved' },
    ])
    expect(await holds()).not.toContain('half')
  })
})
