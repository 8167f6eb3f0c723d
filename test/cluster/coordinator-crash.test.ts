import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { approveRun, createRun } from '../../examples/payledger/payledger.ts'
import type { StepName } from '../../src/base/step.ts'
import type { FleetConfigInput } from '../../src/fleet/config.ts'
import type { Gateway } from '../../src/fleet/gateway.ts'
import { eventually } from '../support/eventually.ts'
import { seedTenant, TestFleet } from '../support/fleet.ts'
import { GatewayProcess } from '../support/gateway-process.ts'

/**
 * The coordinating gateway is killed at every step of a global commit, in a process of its own. What it leaves settles
 * by itself to the right outcome: before the home's commit is sent, neither side; from there on, both. A flight that was sent
 * is the kernel's: the server beside it reads it to its sync point before it meets the end of the connection.
 */

type Expected = 'aborted' | 'committed'
/** Of its branch, until somebody settles it. The settlement has more sync points than one, and may end between them. */
type Left = 'prepared' | 'nothing' | 'either'

const steps: readonly (readonly [StepName, Expected, Left])[] = [
  // Resolvers reach these as well: each of them is played on a fleet where nothing is in doubt.
  ['global decision row', 'committed', 'prepared'],
  ['global settle sent', 'committed', 'either'],
  ['global settled', 'committed', 'nothing'],
  ['global branch opened', 'aborted', 'nothing'],
  ['global prepare sent', 'aborted', 'prepared'],
  ['global prepare acknowledged', 'aborted', 'prepared'],
  ['global record inserted', 'aborted', 'prepared'],
  ['global home commit sent', 'committed', 'prepared'],
  ['global home waiting for follower', 'committed', 'prepared'],
  ['global reply', 'committed', 'prepared'],
]
const alone: readonly StepName[] = ['global decision row', 'global settle sent', 'global settled']

/** A tenant for each step: a branch that is in doubt keeps its locks on the tenant's account. */
const cases = steps.map(([step, expected, leaves], index) => ({
  step,
  expected,
  leaves,
  tenant: `tenant-${index}`,
  run: 'apr-2026',
  key: `click-${index}`,
  actor: `manager@tenant-${index}.example`,
}))
type Case = (typeof cases)[number]

let fleet: TestFleet
/** Does nothing in the background, so that what a crash leaves stays until somebody else settles it. */
let observer: Gateway

function adapt(config: FleetConfigInput): FleetConfigInput {
  const policy = { authority: ['eu-west', 'eu-central'], replicas: ['EU'], otherwise: 'reject' } as const
  const tenants = cases.map(({ tenant }) => [tenant, { home: 'eu-west/payroll', policy }] as const)
  const app = fileURLToPath(new URL('../../examples/payledger/app.js', import.meta.url))
  return { ...config, app, tenants: Object.fromEntries(tenants) }
}

/** How many branches were prepared when the gateway had died, and what it had sent was done. */
const left = new Map<StepName, number>()

async function crashAt({ step, leaves, tenant, run, key, actor }: Case): Promise<void> {
  const before = new Set(await fleet.prepared())
  const gateway = await GatewayProcess.start({ dataDir: fleet.config.dataDir, region: 'eu-west', crashAt: step })
  const answer = gateway
    .post(`/payledger/${tenant}/runs/${run}/approve`, { actor }, { 'idempotency-key': key })
    .then((response) => response.text())
  const lost = await answer.catch((error: unknown) => error)
  // A gateway that does not reach the step answers, and the test fails here.
  expect(await gateway.ended(), `${step}: ${String(lost)}`).toBe('SIGKILL')
  const count = async () => (await fleet.prepared()).filter((gid) => !before.has(gid)).length
  // What was sent may still be at work. The test says what never came.
  if (leaves === 'prepared') await eventually(async () => (await count()) === 1, 10_000).catch(() => undefined)
  left.set(step, await count())
}

beforeAll(async () => {
  fleet = await TestFleet.open({ adapt })
  observer = await fleet.gateway('eu-west', { services: false })
  for (const each of cases) {
    await seedTenant(observer, each.tenant)
    await createRun(observer, { ...each, department: 'hq' })
  }
  for (const each of cases) {
    await crashAt(each)
    if (alone.includes(each.step)) await rescue()
  }
  await rescue()
})

/** Another gateway is there, for as long as it takes. */
async function rescue(): Promise<void> {
  const gateway = await fleet.gateway('us-east')
  await eventually(async () => (await fleet.prepared()).length === 0)
  await gateway.close()
}

afterAll(() => fleet?.close())

const holdOf = async ({ tenant, run }: Case) => {
  const rows = await fleet.ask<{ reserved_in: string }>(
    'us-east/treasury',
    'select reserved_in from public.treasury_holds where tenant = $1 and run_id = $2',
    [tenant, run],
  )
  return rows[0]?.reserved_in ?? null
}

const approvalOf = async ({ tenant, run }: Case) => {
  const rows = await fleet.ask<{ approved_in: string | null }>(
    'eu-west/payroll',
    'select approved_in from public.payroll_runs where tenant = $1 and id = $2',
    [tenant, run],
  )
  return rows[0]?.approved_in ?? null
}

describe.each(cases)('killed at $step', (each) => {
  if (each.leaves !== 'either') {
    test(`leaves ${each.leaves}`, () => expect(left.get(each.step)).toBe(each.leaves === 'prepared' ? 1 : 0))
  }

  test(`both sides are ${each.expected}`, async () => {
    const [approved, reserved] = [await approvalOf(each), await holdOf(each)]
    expect(reserved).toBe(approved)
    if (each.expected === 'committed') expect(approved).not.toBeNull()
    else expect(approved).toBeNull()
  })

  test('the same click again gets the one outcome', async () => {
    const before = await approvalOf(each)
    const again = await approveRun(observer, { ...each, idempotencyKey: each.key })
    expect(again.replayed).toBe(before !== null)
    if (before !== null) expect(again.transactionId).toBe(before)
    // The treasury learns of it behind the answer.
    await eventually(async () => (await holdOf(each)) === again.transactionId)
  })
})

test('nothing is left prepared, and the account has what its holds say', async () => {
  expect(await fleet.prepared()).toEqual([])
  const wrong = await fleet.ask(
    'us-east/treasury',
    `select a.tenant from public.treasury_accounts a
     left join public.treasury_holds h on h.tenant = a.tenant and h.status = 'active'
     group by a.tenant, a.reserved_cents having a.reserved_cents <> coalesce(sum(h.amount_cents), 0)`,
  )
  expect(wrong).toEqual([])
})
