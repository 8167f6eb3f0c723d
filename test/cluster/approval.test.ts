import { afterAll, beforeAll, expect, test } from 'vitest'
import { approveRun, createRun } from '../../examples/payledger/payledger.ts'
import { HoldfastError } from '../../src/base/errors.ts'
import type { Gateway } from '../../src/fleet/gateway.ts'
import { seedTenant, TestFleet } from '../support/fleet.ts'

/** One business action, asked for many times at once: over two shards, through the public API. */

const tenant = 'globex-eu'
const actor = 'manager@globex-eu.example'
const clicks = 50

let fleet: TestFleet
let gateway: Gateway

beforeAll(async () => {
  fleet = await TestFleet.open()
  gateway = await fleet.gateway('eu-west')
  await seedTenant(gateway, tenant)
})

afterAll(() => fleet?.close())

const draft = (run: string) => createRun(gateway, { tenant, run, actor, department: 'hq' })

const holdsOf = (run: string) =>
  fleet.ask<{ reserved_in: string }>(
    'us-east/treasury',
    'select reserved_in from public.treasury_holds where tenant = $1 and run_id = $2',
    [tenant, run],
  )

const commitsOf = (run: string) =>
  fleet.ask<{ transaction_id: string }>(
    'eu-west/payroll',
    `select transaction_id from holdfast.commit_log where tenant = $1 and subject = $2 and action = 'payroll.approve'`,
    [tenant, run],
  )

test('one key: fifty clients approve a run once, with one hold, and get fifty equal answers', async () => {
  await draft('one-key')
  const answers = await Promise.all(
    Array.from({ length: clicks }, () => approveRun(gateway, { tenant, run: 'one-key', actor, idempotencyKey: 'k' })),
  )
  const [first] = answers
  const told = answers.map(({ transactionId, commitTimestamp, value }) => ({ transactionId, commitTimestamp, value }))
  expect(told).toEqual(answers.map(() => told[0]))
  expect(answers.filter(({ replayed }) => !replayed)).toHaveLength(1)
  expect(await commitsOf('one-key')).toEqual([{ transaction_id: first?.transactionId }])
  expect(await holdsOf('one-key')).toEqual([{ reserved_in: first?.transactionId }])
})

test('fifty keys: one client approves the run, and the others are told who did', async () => {
  await draft('fifty-keys')
  const ends = await Promise.allSettled(
    Array.from({ length: clicks }, (_, click) =>
      approveRun(gateway, { tenant, run: 'fifty-keys', actor, idempotencyKey: `k${click}` }),
    ),
  )
  const approved = ends.flatMap((end) => (end.status === 'fulfilled' ? [end.value] : []))
  const refused = ends.flatMap((end) => (end.status === 'rejected' ? [end.reason as unknown] : []))
  expect(approved).toHaveLength(1)
  expect(refused).toHaveLength(clicks - 1)
  for (const error of refused) {
    expect(error).toBeInstanceOf(HoldfastError)
    expect(error).toMatchObject({
      code: 'transaction_refused',
      message: `run fifty-keys was approved before, by ${actor}`,
      detail: { approvedIn: approved[0]?.transactionId },
    })
  }
  expect(await commitsOf('fifty-keys')).toHaveLength(1)
  expect(await holdsOf('fifty-keys')).toEqual([{ reserved_in: approved[0]?.transactionId }])
})

test('one key for two requests: the second is a conflict, and nothing of it is written', async () => {
  await draft('first')
  await draft('second')
  await approveRun(gateway, { tenant, run: 'first', actor, idempotencyKey: 'reused' })
  await expect(approveRun(gateway, { tenant, run: 'second', actor, idempotencyKey: 'reused' })).rejects.toMatchObject({
    code: 'idempotency_conflict',
  })
  expect(await holdsOf('second')).toEqual([])
})

test('both or neither: an account that does not cover the hold leaves the run a draft', async () => {
  await draft('too-dear')
  await fleet.ask('us-east/treasury', 'update public.treasury_accounts set balance_cents = reserved_cents')
  await expect(approveRun(gateway, { tenant, run: 'too-dear', actor })).rejects.toMatchObject({
    code: 'constraint_violated',
  })
  expect(await holdsOf('too-dear')).toEqual([])
  const runs = await fleet.ask('eu-west/payroll', 'select status from public.payroll_runs where id = $1', ['too-dear'])
  expect(runs).toEqual([{ status: 'draft' }])
})
