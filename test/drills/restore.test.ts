import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { cleanUp } from '../../examples/payledger/clean-up.ts'
import { approveRun, createRun } from '../../examples/payledger/payledger.ts'
import { present } from '../../src/base/assert.ts'
import type { Gateway } from '../../src/fleet/gateway.ts'
import type { Hlc } from '../../src/hlc/hlc.ts'
import { withConnection } from '../../src/postgres/postgres.ts'
import { dropEnvironment, listEnvironments } from '../../src/recovery/environment-servers.ts'
import type { RecoveryContext } from '../../src/recovery/recovery.ts'
import { dryRun, restore } from '../../src/recovery/restore.ts'
import { seedTenant, TestFleet } from '../support/fleet.ts'
import { archivedAt, recoveryContext, takeBackups } from '../support/recovery.ts'

/** The bad day: a clean-up job in several commits, between approvals that must stay. */

const tenant = 'globex-eu'
const actor = 'manager@globex-eu.example'

let fleet: TestFleet
let gateway: Gateway
let context: RecoveryContext
const cleanUps: string[] = []
let last: Hlc

beforeAll(async () => {
  fleet = await TestFleet.open()
  gateway = await fleet.gateway('eu-west')
  await fleet.gateway('us-east')
  await seedTenant(gateway, tenant)
  await takeBackups(fleet)
  for (const run of ['jan', 'feb', 'mar']) await approve(run)
  // The job looks at what is settled; the last approval's branch may not be.
  while ((await fleet.ask('us-east/treasury', holds)).length < 3);
  for await (const { outcome } of cleanUp(gateway, { tenant })) {
    cleanUps.push(outcome.transactionId)
    await approve(`after-${cleanUps.length}`)
  }
  last = await approve('last')
  context = await recoveryContext(fleet)
  await archivedAt(context, last)
})

afterAll(() => fleet?.close())

async function approve(run: string): Promise<Hlc> {
  await createRun(gateway, { tenant, run, actor, department: 'hq' })
  return (await approveRun(gateway, { tenant, run, actor })).commitTimestamp
}

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
    expect(await askEnvironment(report.id, 'us-east/treasury', holds)).toEqual(
      ['feb', 'jan', 'mar'].map((run_id) => ({ run_id, status: 'active' })),
    )
    await dropEnvironment(context, report.id)
    expect(await listEnvironments(context)).toEqual([])
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
    const found = await askEnvironment<{ run_id: string }>(report.id, 'us-east/treasury', holds)
    const between = cleanUps.map((_, index) => `after-${index + 1}`)
    expect(found.map(({ run_id }) => run_id)).toEqual([...between, 'feb', 'jan', 'last', 'mar'])
    await dropEnvironment(context, report.id)
  })
})
