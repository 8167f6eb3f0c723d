import { afterAll, beforeAll, expect, test } from 'vitest'
import type { Fleet, Transaction } from 'holdfast'
import { approveRun, createRun } from '../../examples/payledger/payledger.ts'
import type { Gateway } from '../../src/fleet/gateway.ts'
import { seedTenant, TestFleet } from '../support/fleet.ts'

/** What PayLedger does with money while others commit between its statements. */

const tenant = 'globex-eu'
const actor = 'manager@globex-eu.example'
const sums = 'run-total-is-the-sum-of-its-items'

let fleet: TestFleet
let gateway: Gateway

beforeAll(async () => {
  fleet = await TestFleet.open()
  gateway = await fleet.gateway('eu-west')
  await seedTenant(gateway, tenant)
})

afterAll(() => fleet?.close())

/** The same fleet, in which something is committed behind the first statement of the next transaction. */
function withBetween(between: () => Promise<unknown>): Fleet {
  let statements = 0
  const transact: Fleet['transact'] = (request, run) =>
    gateway.transact(request, (tx) => {
      const query: Transaction['query'] = async (domain, text, values) => {
        const result = await tx.query<never>(domain, text, values)
        statements += 1
        if (statements === 1) await between()
        return result
      }
      return run({ ...tx, query })
    })
  return { transact } as Partial<Fleet> as Fleet
}

const business = (action: string, subject: string) => ({ tenant, action, subject, actor })

const raise = () =>
  gateway.transact(business('payroll.raise', 'hq'), (tx) =>
    tx.query('payroll', `update employees set salary_cents = salary_cents + 5000 where department = 'hq'`),
  )

const amountsOf = async (run: string) => {
  const [row] = await fleet.ask<{ total: string; items: string }>(
    'eu-west/payroll',
    `select r.total_cents as total, sum(i.amount_cents)::text as items from payroll_runs r
     join payroll_items i on i.tenant = r.tenant and i.run_id = r.id where r.id = $1 group by r.total_cents`,
    [run],
  )
  return row
}

const violationsOf = async () => (await gateway.invariants({ names: [sums] }))[0]?.rows

test('a raise that commits while a run is drafted is in its total and its items, or in neither', async () => {
  const { value } = await createRun(withBetween(raise), { tenant, run: 'raised', actor, department: 'hq' })
  const amounts = await amountsOf('raised')
  expect(amounts).toEqual({ total: value.totalCents, items: value.totalCents })
  await createRun(gateway, { tenant, run: 'later', actor, department: 'hq' })
  const later = await amountsOf('later')
  expect(BigInt(later?.total ?? 0)).toBe(BigInt(value.totalCents) + 10n * 5000n)
  await approveRun(gateway, { tenant, run: 'raised', actor })
  expect(await violationsOf()).toEqual([])
})

test('the invariant of the sum names a run whose items say otherwise, a draft as well', async () => {
  await createRun(gateway, { tenant, run: 'planted', actor, department: 'sales' })
  await createRun(gateway, { tenant, run: 'planted-draft', actor, department: 'sales' })
  await approveRun(gateway, { tenant, run: 'planted', actor })
  const change = (by: number) =>
    gateway.transact(business('payroll.mend', 'planted'), (tx) =>
      tx.query(
        'payroll',
        `update payroll_items set amount_cents = amount_cents + $1 where run_id like 'planted%' and employee_id = 'sales-1'`,
        [by],
      ),
    )
  expect(await violationsOf()).toEqual([])
  await change(1)
  const rows = (await violationsOf()) ?? []
  expect(rows.map((row) => String(row['run_id'])).toSorted()).toEqual(['planted', 'planted-draft'])
  await change(-1)
  expect(await violationsOf()).toEqual([])
})

test('a draft that appears while its approval looks for it is approved, and not told as approved before', async () => {
  const drafting = withBetween(() => createRun(gateway, { tenant, run: 'appearing', actor, department: 'sales' }))
  const { value } = await approveRun(drafting, { tenant, run: 'appearing', actor })
  expect(await amountsOf('appearing')).toEqual({ total: value.totalCents, items: value.totalCents })
  await expect(approveRun(gateway, { tenant, run: 'appearing', actor })).rejects.toMatchObject({
    code: 'transaction_refused',
    message: `run appearing was approved before, by ${actor}`,
  })
  await expect(approveRun(gateway, { tenant, run: 'nope', actor })).rejects.toMatchObject({
    code: 'transaction_refused',
    message: `tenant ${tenant} has no run nope`,
  })
})
