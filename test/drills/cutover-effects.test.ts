import { afterAll, beforeAll, expect, test } from 'vitest'
import { approveRun, createRun } from '../../examples/payledger/payledger.ts'
import { deferred } from '../../src/base/deferred.ts'
import type { OnStep } from '../../src/base/step.ts'
import type { Gateway } from '../../src/fleet/gateway.ts'
import { cutover } from '../../src/recovery/cutover.ts'
import { restore } from '../../src/recovery/restore.ts'
import { eventually } from '../support/eventually.ts'
import { seedTenant, TestFleet } from '../support/fleet.ts'
import { archivedAt, cutoverFleet, recoveryContext, takeBackups } from '../support/recovery.ts'
import type { WebhookReceiver } from '../support/webhook-receiver.ts'
import { receiveWebhooks } from '../support/webhook-receiver.ts'

/** What has left the fleet while a cutover takes its cause away. */

const tenant = 'globex-eu'
const actor = 'manager@globex-eu.example'
const payroll = 'eu-west/payroll'

const sent = deferred<void>()
const answered = deferred<void>()
let receiver: WebhookReceiver
let fleet: TestFleet
let gateway: Gateway

beforeAll(async () => {
  receiver = await receiveWebhooks()
  fleet = await TestFleet.open({ adapt: (config) => ({ ...config, outbox: { webhook: receiver.url } }) })
  // The request is with the receiver, whose answer takes its time.
  const onStep: OnStep = async (step) => {
    if (step !== 'outbox event sent') return
    sent.resolve()
    await answered.promise
  }
  gateway = await fleet.gateway('eu-west', { onStep })
  await fleet.gateway('us-east')
  await seedTenant(gateway, tenant)
  await takeBackups(fleet)
})

afterAll(async () => {
  answered.resolve()
  await fleet?.close()
  await receiver?.close()
})

test('an effect whose answer comes behind the switch is listed for compensation as what it is by then', async () => {
  await createRun(gateway, { tenant, run: 'jan', actor, department: 'hq' })
  const { transactionId, commitTimestamp } = await approveRun(gateway, { tenant, run: 'jan', actor })
  await sent.promise
  const context = await recoveryContext(fleet)
  await archivedAt(context, commitTimestamp)
  const request = { target: { kind: 'before', transaction: transactionId }, without: [transactionId] } as const
  const { id, verdict } = await restore(context, request)
  expect(verdict).toBe('passed')

  const onStep: OnStep = async (step, { shard }) => {
    if (step !== 'cutover open' || shard !== payroll) return
    expect((await context.deliveries()).map(({ state }) => state)).toEqual(['sending'])
    answered.resolve()
    await eventually(async () => (await context.deliveries()).some(({ state }) => state === 'delivered'))
  }
  const report = await cutover({ ...context, onStep }, cutoverFleet(fleet), { environment: id })
  expect(report.compensations).toMatchObject([{ transactionId, name: 'payroll.approved', delivered: 'certainly' }])
  expect(receiver.keys()).toEqual(report.compensations.map(({ eventId }) => eventId))
  const again = await cutover(context, cutoverFleet(fleet), { environment: id })
  expect(again.compensations).toEqual(report.compensations)
})
