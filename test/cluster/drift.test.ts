import { afterAll, beforeAll, expect, test } from 'vitest'
import { createRun } from '../../examples/payledger/payledger.ts'
import { systemClock } from '../../src/base/clock.ts'
import type { MetricLabels, MetricName, Metrics } from '../../src/base/metrics.ts'
import { silentMetrics } from '../../src/base/metrics.ts'
import type { ReadRequest } from '../../src/fleet/transact-api.ts'
import type { Gateway } from '../../src/fleet/gateway.ts'
import { eventually } from '../support/eventually.ts'
import { seedTenant, TestFleet } from '../support/fleet.ts'

/** Reads that leave their region: counted by route, and recorded where they were declared local. */

const tenant = 'globex-eu'
const treasury = 'us-east/treasury'
const patient = 30_000

let fleet: TestFleet
let gateway: Gateway
const counted = new Map<string, number>()

const metrics: Metrics = {
  ...silentMetrics,
  count(name: MetricName, labels: MetricLabels = {}) {
    const key = [name, ...Object.values(labels)].join(' ')
    counted.set(key, (counted.get(key) ?? 0) + 1)
  },
}

beforeAll(async () => {
  fleet = await TestFleet.open()
  gateway = await fleet.gateway('eu-west', { metrics })
  await seedTenant(gateway, tenant)
})

afterAll(() => fleet?.close())

const cash = (request: Omit<ReadRequest, 'tenant'>, by = gateway) =>
  by.read({ tenant, ...request }, (read) => read.query('treasury', 'select id from treasury_accounts'))
const people = (request: Omit<ReadRequest, 'tenant'>) =>
  gateway.read({ tenant, ...request }, (read) => read.query('payroll', 'select id from employees'))
const driftsOf = async (route: string, by = gateway) => (await by.drifts()).filter((drift) => drift.route === route)

test('R10: a read that is declared local and leaves its region is answered, counted and recorded', async () => {
  const route = 'GET /runs/{id}'
  const startedMs = systemClock.wallMs()
  const { served, value } = await cash({ route, reach: 'local' })
  expect(value.rowCount).toBeGreaterThan(0)
  expect(served).toMatchObject([{ shard: treasury, region: 'us-east' }])
  for (let n = 0; n < 9; n += 1) await cash({ route, reach: 'local' })
  await eventually(async () => (await driftsOf(route))[0]?.reads === 10, patient)
  const [drift, ...more] = await driftsOf(route)
  expect(drift).toMatchObject({ route, from: 'eu-west', to: 'us-east', shard: treasury })
  expect(more).toEqual([])
  expect(Date.parse(drift?.firstAt ?? '')).toBeGreaterThanOrEqual(startedMs - 1)
  expect(Date.parse(drift?.lastAt ?? '')).toBeLessThanOrEqual(systemClock.wallMs() + 1)
  expect(counted.get(`cross_region_drift_total eu-west us-east ${route}`)).toBe(10)
  expect(counted.get(`cross_region_fanout_total eu-west us-east ${route}`)).toBe(10)
})

test('R9: a fan-out, a read that declares nothing and a snapshot are counted, and no drift', async () => {
  await cash({ route: 'GET /total', reach: 'fan-out' })
  await cash({ route: 'GET /somewhere' })
  const domains = ['payroll', 'treasury']
  await gateway.snapshot({ tenant, domains, route: 'GET /audit' }, (read) => read.query('treasury', 'select 1'))
  for (const route of ['GET /total', 'GET /somewhere', 'GET /audit']) {
    expect(counted.get(`cross_region_fanout_total eu-west us-east ${route}`), route).toBe(1)
    expect(counted.get(`cross_region_drift_total eu-west us-east ${route}`), route).toBeUndefined()
  }
  await people({ route: 'GET /people', reach: 'local' })
  expect(counted.get('cross_region_fanout_total eu-west eu-central GET /people')).toBeUndefined()
  // What is noted behind them is written with them.
  await cash({ route: 'GET /behind', reach: 'local' })
  await eventually(async () => (await driftsOf('GET /behind')).length === 1, patient)
  const routes = (await gateway.drifts()).map(({ route }) => route)
  expect(
    routes.filter((route) => ['GET /total', 'GET /somewhere', 'GET /audit', 'GET /people'].includes(route)),
  ).toEqual([])
})

test('R10: a local read that leaves because what is near is behind is one too', async () => {
  const route = 'GET /near'
  const other = await fleet.gateway('eu-central', { metrics })
  const faults = fleet.faults(other)
  const [near = ''] = fleet.nodesOf('eu-west/payroll').filter((id) => fleet.node(id).region === 'eu-central')
  const read = (session?: string) =>
    other.read({ tenant, session, waitMs: 0, route, reach: 'local' }, (reader) =>
      reader.query('payroll', 'select id from employees'),
    )
  expect((await read()).served).toMatchObject([{ region: 'eu-central' }])
  await faults.holdBack(near)
  try {
    const written = await createRun(gateway, { tenant, run: 'ahead', actor: 'manager', department: 'hq' })
    expect((await read(written.session)).served).toMatchObject([{ region: 'eu-west', rerouted: true }])
  } finally {
    await faults.release(near)
  }
  await eventually(async () => (await driftsOf(route)).length === 1, patient)
  expect(await driftsOf(route)).toMatchObject([{ from: 'eu-central', to: 'eu-west', shard: 'eu-west/payroll' }])
})

test('R11: no read waits for its record', async () => {
  const route = 'GET /blocked'
  const admin = await fleet.connect(treasury, 'holdfast_admin')
  try {
    await admin.query('begin')
    await admin.query('lock table holdfast.read_drift in access exclusive mode')
    // More than the connections of services that its writing could ever take.
    for (let n = 0; n < 50; n += 1) await cash({ route, reach: 'local' })
    await admin.query('rollback')
  } finally {
    admin.release()
  }
  await eventually(async () => (await driftsOf(route)).length === 1, patient)
  expect((await driftsOf(route))[0]?.reads).toBeGreaterThanOrEqual(50)
})

test('what a gateway has noted is written when it closes', async () => {
  const route = 'GET /last'
  const leaving = await fleet.gateway('eu-west')
  await cash({ route, reach: 'local' }, leaving)
  await leaving.close()
  expect(await driftsOf(route)).toMatchObject([{ reads: 1 }])
})

test('R11: a shard keeps a thousand rows, and counts the rest under one', async () => {
  const routes = Array.from({ length: 1_200 }, (_, index) => `GET /${index}`)
  const connection = await fleet.connect(treasury, 'holdfast_gateway')
  try {
    const each = (value: string) => routes.map(() => value)
    for (let twice = 0; twice < 2; twice += 1) {
      await connection.query(
        `select holdfast.note_drifts('eu-west', $1::text[], $2::text[], $3::bigint[], $4::bigint[], $4::bigint[])`,
        [routes, each('us-east'), each('1'), each(String(systemClock.wallMs()))],
      )
    }
    const write = connection.query('insert into holdfast.read_drift select * from holdfast.read_drift limit 1')
    await expect(write).rejects.toMatchObject({ sqlState: '42501' })
  } finally {
    connection.release()
  }
  const [kept] = await fleet.ask<{ rows: string; reads: string; other: string }>(
    treasury,
    `select count(*) as rows, sum(reads) filter (where route ~ '^GET /[0-9]|^other$') as reads,
       sum(reads) filter (where route = 'other') as other from holdfast.read_drift`,
  )
  expect(Number(kept?.rows)).toBeLessThanOrEqual(1_001)
  expect(Number(kept?.reads)).toBe(2_400)
  expect(Number(kept?.other)).toBeGreaterThanOrEqual(400)
})

test('R9: a route that could be anything is refused', async () => {
  await expect(cash({ route: 'x'.repeat(101) })).rejects.toMatchObject({ code: 'argument_invalid' })
  await expect(cash({ reach: 'global' as 'local' })).rejects.toMatchObject({ code: 'argument_invalid' })
})
