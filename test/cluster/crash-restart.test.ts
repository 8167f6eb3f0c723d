import { afterAll, beforeAll, expect, test } from 'vitest'
import { createRun, readRun } from '../../examples/payledger/payledger.ts'
import type { ShardName } from '../../src/directory/topology.ts'
import type { Gateway } from '../../src/fleet/gateway.ts'
import { eventually } from '../support/eventually.ts'
import { seedTenant, TestFleet } from '../support/fleet.ts'

/** A server that ends by itself is brought back, and its shard takes traffic only behind a barrier. */

const tenant = 'globex-eu'
const actor = 'manager@globex-eu.example'
const home = 'eu-west/payroll'

let fleet: TestFleet
let gateway: Gateway

beforeAll(async () => {
  fleet = await TestFleet.open()
  gateway = await fleet.gateway('eu-west')
  await seedTenant(gateway, tenant)
})

afterAll(() => fleet?.close())

const standing = () => fleet.supervisor.topology.shard(home as ShardName)

/** As the kernel ends a process: nobody asked for it. */
const crash = (node: string) => fleet.supervisor.servers.server(node).kill()

test('a follower that crashed streams again', async () => {
  const [, follower = ''] = fleet.nodesOf(home)
  await crash(follower)
  await eventually(() => fleet.supervisor.servers.isRunning(follower))
  const { session } = await createRun(gateway, { tenant, run: 'mar-2026', actor })
  await eventually(async () => {
    // It accepts no connection while it starts.
    const rows = await fleet.askNode<{ count: string }>(follower, 'select count(*) from payroll_runs').catch(() => [])
    return rows[0]?.count === '1'
  })
  expect((await readRun(gateway, { tenant, run: 'mar-2026', session })).run?.status).toBe('draft')
})

test('HZ-S2: after a crash the primary shows a commit that no follower has, and nobody is let in until one has it', async () => {
  const [primary = '', ...followers] = fleet.nodesOf(home)
  const faults = fleet.faults(gateway)
  for (const follower of followers) await faults.killNode(follower)
  const lonely = createRun(gateway, { tenant, run: 'apr-2026', actor }).catch((error: unknown) => error)
  await eventually(async () => {
    const waiting = `select from pg_stat_activity where wait_event = 'SyncRep' and application_name like 'gateway%'`
    return (await fleet.askNode(primary, waiting)).length > 0
  })
  await crash(primary)
  await eventually(() => fleet.supervisor.servers.isRunning(primary))

  const shown = () => fleet.askNode(primary, `select from payroll_runs where id = 'apr-2026'`)
  await eventually(async () => (await shown().catch(() => [])).length === 1)
  expect(standing().state).toBe('fenced')
  await expect(readRun(gateway, { tenant, run: 'apr-2026', level: 'primary', waitMs: 0 })).rejects.toMatchObject({
    category: 'unavailable',
  })

  for (const follower of followers) await faults.restartNode(follower)
  await eventually(() => standing().state === 'open', 90_000)
  await lonely
  expect((await readRun(gateway, { tenant, run: 'apr-2026', level: 'primary' })).run?.status).toBe('draft')
})
