import { execFileSync } from 'node:child_process'
import { constants } from 'node:fs'
import { open, readdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { cleanUp } from '../../examples/payledger/clean-up.ts'
import { approveRun, createRun } from '../../examples/payledger/payledger.ts'
import { present } from '../../src/base/assert.ts'
import type { Clock } from '../../src/base/clock.ts'
import { systemClock } from '../../src/base/clock.ts'
import { deferred } from '../../src/base/deferred.ts'
import { silentProgress } from '../../src/base/progress.ts'
import type { OnStep } from '../../src/base/step.ts'
import { noStep } from '../../src/base/step.ts'
import type { ShardName } from '../../src/directory/topology.ts'
import type { Gateway } from '../../src/fleet/gateway.ts'
import { callTo } from '../../src/fleet/operations/operations.ts'
import type { Hlc } from '../../src/hlc/hlc.ts'
import { parseLsn } from '../../src/postgres/lsn.ts'
import { withConnection } from '../../src/postgres/postgres.ts'
import { listEnvironments } from '../../src/recovery/environment-servers.ts'
import type { RecoveryContext } from '../../src/recovery/recovery.ts'
import { dryRun, restore } from '../../src/recovery/restore.ts'
import { eventually } from '../support/eventually.ts'
import { seedTenant, TestFleet } from '../support/fleet.ts'
import { archivedAt, recoveryContext, takeBackups } from '../support/recovery.ts'

/** The bad day: a clean-up job in several commits, between approvals that must stay. */

const tenant = 'globex-eu'
const actor = 'manager@globex-eu.example'
const treasury = 'us-east/treasury'

let fleet: TestFleet
let gateway: Gateway
let context: RecoveryContext
let reach: OnStep = noStep
const cleanUps: string[] = []
let last: Hlc

beforeAll(async () => {
  fleet = await TestFleet.open({ onStep: (step, where) => reach(step, where) })
  gateway = await fleet.gateway('eu-west')
  await fleet.gateway('us-east')
  await seedTenant(gateway, tenant)
  await takeBackups(fleet)
  for (const run of ['jan', 'feb', 'mar']) await approve(run)
  // The job looks at what is settled; the last approval's branch may not be.
  while ((await fleet.ask(treasury, holds)).length < 3);
  for await (const { outcome } of cleanUp(gateway, { tenant })) {
    cleanUps.push(outcome.transactionId)
    await approve(`after-${cleanUps.length}`)
  }
  last = await approve('last')
  context = await recoveryContext(fleet)
  await archivedAt(context, last)
})

afterAll(() => fleet?.close())

const stateOf = (shard: string) => fleet.supervisor.topology.shard(shard as ShardName).state

async function approve(run: string): Promise<Hlc> {
  await createRun(gateway, { tenant, run, actor, department: 'hq' })
  return (await approveRun(gateway, { tenant, run, actor })).commitTimestamp
}

const drop = (environment: string) => gateway.dropRestore(environment)

async function askEnvironment<R>(id: string, shard: string, sql: string): Promise<R[]> {
  const environment = present(
    (await listEnvironments(context)).find((one) => one.id === id),
    'the environment',
  )
  const address = present(environment.shards.find((one) => one.shard === shard)?.address, 'its server')
  const { rows } = await withConnection(context.host.adminTarget(address), (admin) => admin.query<R>(sql))
  return rows
}

const holds = `select run_id, status from treasury_holds order by run_id`

describe('restore', () => {
  test('R1 R2: to just before the first commit of the clean-up job: what came before is there, and nothing else', async () => {
    const report = await restore(context, { target: { kind: 'before', transaction: cleanUps[0] ?? '' }, without: [] })
    expect(
      Object.values(report.checks)
        .flat()
        .filter(({ ok }) => !ok),
    ).toEqual([])
    expect(report.verdict).toBe('passed')
    expect(report.gates.map(({ name }) => name)).toEqual([
      'freeze',
      'provision',
      'base backup',
      'replay',
      'promote',
      'verify',
    ])
    expect(await askEnvironment(report.id, treasury, holds)).toEqual(
      ['feb', 'jan', 'mar'].map((run_id) => ({ run_id, status: 'active' })),
    )
    const { shards } = present((await listEnvironments(context))[0], 'the environment')
    const folders = shards.flatMap(({ dataDir, walDir }) => [dataDir, walDir])
    const servers = shards.map(({ serverId }) => serverId)
    expect(await drop(report.id)).toEqual({ environment: report.id, stopped: servers, removed: folders })
    expect(await listEnvironments(context)).toEqual([])
    expect(servers.filter((id) => context.host.isRunning(id))).toEqual([])
    const left = await readdir(fleet.supervisor.home.serversDir)
    expect(left.filter((folder) => folder.startsWith('restore'))).toEqual([])
    // Once more changes nothing; its report is what is left of it.
    expect(await drop(report.id)).toEqual({ environment: report.id, stopped: [], removed: [] })
    expect((await gateway.drills()).map(({ id }) => id)).toContain(report.id)
    await expect(drop('nothing')).rejects.toMatchObject({ code: 'unknown_environment' })
  })

  test('R5: without the clean-up job every approval stays, those between its commits and those after', async () => {
    const request = { target: { kind: 'before', transaction: cleanUps[0] ?? '' }, without: cleanUps } as const
    const exclusion = present(await dryRun(context, request), 'a dry run')
    expect(exclusion.asked.map(({ name }) => name)).toEqual(cleanUps)
    expect(exclusion.dragged).toEqual([])
    expect(exclusion.review.length).toBeGreaterThan(0)
    const report = await restore(context, request)
    expect(
      Object.values(report.checks)
        .flat()
        .filter(({ ok }) => !ok),
    ).toEqual([])
    const found = await askEnvironment<{ run_id: string }>(report.id, treasury, holds)
    const between = cleanUps.map((_, index) => `after-${index + 1}`)
    expect(found.map(({ run_id }) => run_id)).toEqual([...between, 'feb', 'jan', 'last', 'mar'])
    await drop(report.id)
  })

  test('a restore keeps nobody waiting who brings a node back; who looks at its environment waits for it', async () => {
    const [begun, release] = [deferred<void>(), deferred<void>()]
    reach = async (step, { shard }) => {
      if (step !== 'restore replay' || shard !== treasury) return
      begun.resolve()
      await release.promise
    }
    const call = callTo(fleet.supervisor)
    const restored = call('restore', { before: cleanUps[0] }, silentProgress)
    try {
      await begun.promise
      const { id: environment } = present((await listEnvironments(context)).at(-1), 'it is provisioned')
      const checked = call('invariants', { environment }, silentProgress).catch((error: unknown) => error)
      // R11: it is not dropped under a restore that is under way, which looks like one that was broken off.
      const dropped = drop(environment).catch((error: unknown) => error)
      const server = () => fleet.supervisor.servers.server(fleet.primary(treasury).id)
      const { pid } = server()
      await server().kill()
      const isBack = () => server().isRunning() && server().pid !== pid && stateOf(treasury) === 'open'
      await eventually(isBack, 60_000)
      release.resolve()
      expect(await restored).toMatchObject({ environment })
      expect(await checked).toBeInstanceOf(Array)
      expect(await dropped).toMatchObject({ environment, stopped: [expect.any(String), expect.any(String)] })
    } finally {
      reach = noStep
      release.resolve()
      await restored.catch(() => undefined)
    }
  })

  test('a replay that stands still is given up', async () => {
    // The segment after next: the server reads ahead, and lets nobody in before its backup is consistent.
    for (const run of ['ahead', 'behind']) {
      await fleet.ask(treasury, 'select pg_switch_wal()')
      last = await approve(run)
    }
    const [end] = await fleet.ask<{ lsn: string }>(treasury, 'select pg_current_wal_flush_lsn()::text as lsn')
    const archive = present(context.archives.get(treasury as ShardName), 'an archive')
    const isArchived = async () =>
      ((await archive.status()).restorable?.through ?? 0n) >= parseLsn(present(end, 'one row').lsn)
    await eventually(isArchived)
    await archivedAt(context, last)
    let pipe = ''
    const onStep: OnStep = async (step, { shard }) => {
      if (step !== 'restore replay' || shard !== treasury) return
      const place = (await listEnvironments(context)).at(-1)?.shards.find((one) => one.shard === treasury)
      const { walDir } = present(place, 'it is provisioned')
      const segments = (await readdir(walDir)).filter((name) => /^[0-9A-F]{24}$/.test(name)).toSorted()
      expect(segments.length).toBeGreaterThanOrEqual(3)
      pipe = join(walDir, present(segments.at(-1), 'a segment'))
      await rm(pipe)
      execFileSync('mkfifo', ['-m', '666', pipe])
    }
    let ahead = 0
    const clock: Clock = {
      ...systemClock,
      monotonicMs: () => systemClock.monotonicMs() + ahead,
      // Every look at the replay is a second later than the one before.
      sleep: (ms) => {
        ahead += 1_000
        return systemClock.sleep(ms)
      },
    }
    const request = { target: { kind: 'end' }, without: [] } as const
    await expect(restore({ ...context, clock, onStep }, request)).rejects.toMatchObject({
      code: 'server_failed',
      message: expect.stringContaining('stands still') as string,
    })
    // Whoever was to copy the segment still waits for its first byte.
    await open(pipe, constants.O_WRONLY | constants.O_NONBLOCK).then(
      (reader) => reader.close(),
      () => undefined,
    )
    await drop(present((await listEnvironments(context)).at(-1), 'what failed is kept').id)
  })

  test('F1: a fleet that stops ends a restore that was asked for', async () => {
    const [begun, release] = [deferred<void>(), deferred<void>()]
    reach = async (step) => {
      if (step !== 'restore fetch') return
      begun.resolve()
      await release.promise
    }
    const call = callTo(fleet.supervisor)
    const restored = call('restore', { at: 'end' }, silentProgress).catch((error: unknown) => error)
    try {
      await begun.promise
      await fleet.supervisor.close()
      expect(await Promise.race([restored, Promise.resolve('it goes on')])).toMatchObject({
        code: 'fleet_not_running',
        message: 'the restore ended: the fleet stops',
      })
    } finally {
      reach = noStep
      release.resolve()
      await restored
    }
  })
})
