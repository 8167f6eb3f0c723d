import { afterAll, beforeAll, expect, test } from 'vitest'
import type { Gateway } from '../../src/fleet/gateway.ts'
import type { Transaction } from '../../src/fleet/transact-api.ts'
import { seedTenant, TestFleet } from '../support/fleet.ts'

/** What an action that reads far away and writes at home costs on the link to there. */
const tenant = 'globex-eu'
const region = 'eu-west'
const abroad = { shard: 'us-east/treasury', region: 'us-east' }

let fleet: TestFleet
let gateway: Gateway

beforeAll(async () => {
  // Counts are exact where the link delays for longer than a flight takes to be written.
  fleet = await TestFleet.open({ wan: 30 })
  gateway = await fleet.gateway(region)
  await seedTenant(gateway, tenant)
})

afterAll(() => fleet?.close())

type Isolation = 'read committed' | 'repeatable read' | 'serializable'
const awaited = (sql: string) => (tx: Transaction) => tx.query('treasury', sql)
const batched = (sql: string) => async (tx: Transaction) => tx.batch('treasury', [[sql]])

let runs = 0
async function act(isolation: Isolation, read: (tx: Transaction) => Promise<unknown>): Promise<string> {
  runs += 1
  const subject = `apr-${runs}`
  const action = { tenant, action: 'payroll.draft', subject, actor: 'm', isolation }
  const { transactionId } = await gateway.transact(action, async (tx) => {
    await read(tx)
    tx.batch('payroll', [
      [`insert into payroll_runs (tenant, id, status, total_cents) values ($1, $2, 'draft', 1)`, [tenant, subject]],
    ])
  })
  return transactionId
}

/** Of the connections that transactions use: services have their own, and go on all the time. */
async function roundTrips(): Promise<number> {
  const counts = await fleet.faults(gateway).linkCounts()
  const asked = counts.filter(
    ({ kind, application, to }) => kind === 'client' && application === `gateway-${region}` && to === abroad.region,
  )
  return asked.reduce((sum, { roundTrips: trips }) => sum + trips, 0)
}

/** Round trips before the reply, and in all. */
async function costOf(run: () => Promise<string>) {
  // Connections are opened, and statements prepared, before anything is counted.
  for (let warm = 0; warm < 3; warm += 1) await run()
  await gateway.parts.environment.background.drain()
  await fleet.faults(gateway).resetLinkCounts()
  const transactionId = await run()
  const replied = await roundTrips()
  await gateway.parts.environment.background.drain()
  const branches = await fleet.ask(abroad.shard, 'select from holdfast.branch where transaction_id = $1', [
    transactionId,
  ])
  return { replied, inAll: await roundTrips(), branches: branches.length }
}

const look = 'select balance_cents from treasury_accounts'

test.each(['read committed', 'repeatable read', 'serializable'] as const)(
  'one for each awaited read, one for the vote, none behind the reply, and no prepare: %s',
  async (isolation) => {
    expect(await costOf(() => act(isolation, awaited(look)))).toEqual({ replied: 2, inAll: 2, branches: 0 })
  },
)

test.each(['read committed', 'repeatable read', 'serializable'] as const)(
  'one in all where the read is batched: opening, read, conclusion and barrier travel at once: %s',
  async (isolation) => {
    expect(await costOf(() => act(isolation, batched(look)))).toEqual({ replied: 1, inAll: 1, branches: 0 })
  },
)

test('Q6: a batch that takes a lock by a function is prepared from its second use on, in the same round trip', async () => {
  const lock = batched('select pg_advisory_xact_lock(7, 7)')
  const { replied, branches } = await costOf(() => act('read committed', lock))
  expect({ replied, branches }).toEqual({ replied: 1, branches: 1 })
})

test('with a lock that lasts until the decision it is prepared, and its branch is settled behind the reply', async () => {
  const { replied, branches } = await costOf(() => act('read committed', awaited(`${look} for share`)))
  expect({ replied, branches }).toEqual({ replied: 2, branches: 1 })
})
