import { readdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { approveRun, createRun } from '../../examples/payledger/payledger.ts'
import type { ShardArchive } from '../../src/archive/archive.ts'
import { present } from '../../src/base/assert.ts'
import { deferred } from '../../src/base/deferred.ts'
import type { OnStep } from '../../src/base/step.ts'
import type { ShardName } from '../../src/directory/topology.ts'
import { withConnection } from '../../src/postgres/postgres.ts'
import { dropEnvironment } from '../../src/recovery/environment-drop.ts'
import { listEnvironments } from '../../src/recovery/environment-servers.ts'
import type { RecoveryContext } from '../../src/recovery/recovery.ts'
import { restore } from '../../src/recovery/restore.ts'
import { seedTenant, TestFleet } from '../support/fleet.ts'
import { archivedAt, recoveryContext, takeBackups } from '../support/recovery.ts'

/** A target at which a branch is prepared and its decision is known: before it was settled, after it was decided. */

const treasury = 'us-east/treasury' as ShardName
const tenant = 'globex-eu'
const actor = 'manager@globex-eu.example'

let fleet: TestFleet
let context: RecoveryContext
let inDoubt: string
let behind: string

beforeAll(async () => {
  fleet = await TestFleet.open()
  const release = deferred<void>()
  let holding = false
  const onStep: OnStep = (step, { shard }) =>
    holding && step === 'global decision row' && shard === treasury ? release.promise : Promise.resolve()
  const west = await fleet.gateway('eu-west', { onStep })
  const east = await fleet.gateway('us-east', { onStep })
  await seedTenant(west, tenant)
  await seedTenant(east, 'initech-us')
  await createRun(west, { tenant, run: 'apr', actor, department: 'hq' })
  while ((await fleet.prepared()).length > 0);
  await takeBackups(fleet)

  holding = true
  inDoubt = (await approveRun(west, { tenant, run: 'apr', actor })).transactionId
  const us = { tenant: 'initech-us', actor: 'manager@initech-us.example', department: 'hq' }
  const between = await createRun(east, { ...us, run: 'behind' })
  behind = between.transactionId
  expect(await fleet.prepared()).toHaveLength(1)
  release.resolve()
  const last = await createRun(east, { ...us, run: 'last' })
  context = await recoveryContext(fleet)
  await archivedAt(context, last.commitTimestamp)
})

afterAll(() => fleet?.close())

async function askTreasury<R>(id: string, sql: string): Promise<R[]> {
  const environment = present(
    (await listEnvironments(context)).find((one) => one.id === id),
    'the environment',
  )
  const address = present(environment.shards.find(({ shard }) => shard === treasury)?.address, 'its server')
  return (await withConnection(context.host.adminTarget(address), (admin) => admin.query<R>(sql))).rows
}

describe('a target between prepare and settlement', () => {
  test('R3 HZ-X10 HZ-R3: the branch is committed by its decision, once, although it was settled behind the stop', async () => {
    const report = await restore(context, { target: { kind: 'before', transaction: behind }, without: [] })
    expect(report.gates.find(({ name }) => name === 'replay')?.detail).toContain('1 branches committed')
    expect(
      Object.values(report.checks)
        .flat()
        .filter(({ ok }) => !ok),
    ).toEqual([])
    expect(await askTreasury(report.id, 'select run_id, reserved_in from treasury_holds')).toEqual([
      { run_id: 'apr', reserved_in: inDoubt },
    ])
    const decision = `select outcome from holdfast.decision where transaction_id = '${inDoubt}'`
    expect(await askTreasury(report.id, decision)).toEqual([{ outcome: 'COMMITTED' }])
    await dropEnvironment(context, report.id)
  })

  test('R3: before the decision it is rolled back, and the home knows nothing of it', async () => {
    const report = await restore(context, { target: { kind: 'before', transaction: inDoubt }, without: [] })
    expect(report.verdict).toBe('passed')
    expect(await askTreasury(report.id, 'select run_id from treasury_holds')).toEqual([])
    expect(await askTreasury(report.id, 'select gid from pg_prepared_xacts')).toEqual([])
    await dropEnvironment(context, report.id)
  })
})

describe('HZ-A2: a log that ends before the stop', () => {
  /** An archive that says its log is whole and hands out one segment too few. */
  function lying(archive: ShardArchive): ShardArchive {
    return {
      ...archive,
      stageWal: async (folder, range, user) => {
        const staged = await archive.stageWal(folder, range, user)
        const last = (await readdir(folder))
          .filter((name) => /^[0-9A-F]{24}$/.test(name))
          .toSorted()
          .at(-1)
        await rm(join(folder, present(last, 'a segment')))
        return staged
      },
    }
  }

  test('ends the restore; no server opens, and the failure is in the report', async () => {
    const archives = new Map([...context.archives].map(([shard, archive]) => [shard, lying(archive)]))
    const attempt = restore({ ...context, archives }, { target: { kind: 'before', transaction: behind }, without: [] })
    await expect(attempt).rejects.toMatchObject({ code: expect.stringMatching(/^(archive_gap|server_failed)$/) })
    const [environment] = await listEnvironments(context)
    expect(environment).toMatchObject({ state: 'failed', report: { verdict: 'failed' } })
    const { id, shards } = present(environment, 'it is listed')
    expect(shards.filter(({ serverId }) => context.host.isRunning(serverId))).toEqual([])
    // R11: what a restore that failed has fetched is gone with it.
    const folders = shards.flatMap(({ dataDir, walDir }) => [dataDir, walDir])
    expect(folders.length).toBeGreaterThan(0)
    expect(await dropEnvironment(context, id)).toEqual({ environment: id, stopped: [], removed: folders })
    expect((await readdir(fleet.supervisor.home.serversDir)).filter((name) => name.startsWith('restore'))).toEqual([])
  })
})
