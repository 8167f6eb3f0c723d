import { afterAll, afterEach, beforeAll, expect, test } from 'vitest'
import { approveRun, createRun } from '../../examples/payledger/payledger.ts'
import type { Gateway } from '../../src/fleet/gateway.ts'
import { PrometheusMetrics } from '../../src/fleet/prometheus.ts'
import { eventually } from '../support/eventually.ts'
import { seedTenant, TestFleet } from '../support/fleet.ts'
import type { WebhookReceiver } from '../support/webhook-receiver.ts'
import { receiveWebhooks } from '../support/webhook-receiver.ts'

/** Effects of committed transactions, on a fleet with gateways in two regions that both want to send them. */

const tenant = 'globex-eu'
const actor = 'manager@globex-eu.example'
const home = 'eu-west/payroll'
const metrics = new PrometheusMetrics()

let receiver: WebhookReceiver
let fleet: TestFleet
let gateway: Gateway

beforeAll(async () => {
  receiver = await receiveWebhooks()
  fleet = await TestFleet.open({ adapt: (config) => ({ ...config, outbox: { webhook: receiver.url } }) })
  gateway = await fleet.gateway('eu-west', { metrics })
  await fleet.gateway('eu-central', { metrics })
  await seedTenant(gateway, tenant)
})

afterAll(async () => {
  await fleet?.close()
  await receiver?.close()
})

async function approve(run: string): Promise<string> {
  await createRun(gateway, { tenant, run, actor, department: 'hq' })
  return (await approveRun(gateway, { tenant, run, actor })).transactionId
}

const received = () =>
  receiver.bodies().map((body) => JSON.parse(body) as { id: string; transactionId: string; payload: unknown })
const arrived = (id: string) => eventually(() => received().some(({ transactionId }) => transactionId === id))

afterEach(() => {
  const keys = receiver.keys()
  expect(new Set(keys).size).toBe(keys.length)
})

test('an approval is announced once, by its event id, and its evidence says so', async () => {
  const id = await approve('announced')
  await arrived(id)
  const [event] = received().filter(({ transactionId }) => transactionId === id)
  expect(event).toMatchObject({
    name: 'payroll.approved',
    tenant,
    payload: { run: 'announced', totalCents: '3818750' },
  })
  expect(receiver.keys()).toContain(event?.id)
  await eventually(async () => {
    const { links } = await gateway.prove(id)
    return links.find(({ link }) => link === 'effects')?.status === 'proven'
  })
})

test('an approval that was refused announces nothing, before or behind others', async () => {
  await createRun(gateway, { tenant, run: 'too-dear', actor, department: 'hq' })
  await fleet.ask('us-east/treasury', 'update public.treasury_accounts set balance_cents = reserved_cents')
  await expect(approveRun(gateway, { tenant, run: 'too-dear', actor })).rejects.toMatchObject({
    code: 'constraint_violated',
  })
  await fleet.ask('us-east/treasury', 'update public.treasury_accounts set balance_cents = 10000000000')
  await arrived(await approve('behind-it'))
  expect(JSON.stringify(receiver.bodies())).not.toContain('too-dear')
})

test('HZ-S1: a commit that is visible and on no follower announces nothing until it is on them', async () => {
  const faults = fleet.faults(gateway)
  const followers = fleet.nodesOf(home).filter((node) => node !== fleet.primary(home).id)
  for (const node of followers) await faults.killNode(node)
  const action = { tenant, action: 'test.announce', subject: 'unreplicated', actor }
  const outcome = gateway.transact(action, async (tx) => {
    await tx.query('payroll', `update employees set department = department where tenant = $1`, [tenant])
    tx.emit('unreplicated', { from: 'primary alone' })
  })
  outcome.catch(() => undefined)
  await eventually(async () => {
    await fleet.ask(
      home,
      `select pg_cancel_backend(pid) from pg_stat_activity where wait_event = 'SyncRep' and query ilike 'commit%'`,
    )
    return (await fleet.ask(home, `select from holdfast.outbox where name = 'unreplicated'`)).length === 1
  })
  const interrupted = () => interruptionsOf(home)
  const before = await interrupted()
  await eventually(async () => (await interrupted()) > before)
  expect(JSON.stringify(receiver.bodies())).not.toContain('unreplicated')
  for (const node of followers) await faults.restartNode(node)
  await eventually(() => JSON.stringify(receiver.bodies()).includes('unreplicated'), 60_000)
})

async function interruptionsOf(shard: string): Promise<number> {
  const counter = await metrics.registry.getSingleMetric('outbox_interrupted_total')?.get()
  return counter?.values.find(({ labels }) => labels['shard'] === shard)?.value ?? 0
}

test('E3: after a failover what was announced before is not announced again, and what comes is', async () => {
  const before = await approve('before-failover')
  await arrived(before)
  await fleet.failover(home, 'eu-central')
  const after = await approve('after-failover')
  await arrived(after)
  expect(received().filter(({ transactionId }) => transactionId === before)).toHaveLength(1)
})
