import { afterEach, beforeAll, expect, test } from 'vitest'
import { deferred } from '../../src/base/deferred.ts'
import type { NodeId } from '../../src/directory/topology.ts'
import { ConnectionPools, poolLimitsDefault } from '../../src/postgres/pools.ts'
import type { ReadLimits } from '../../src/reading/environment.ts'
import type { Read, ReadRequest } from '../../src/reading/reading.ts'
import { read } from '../../src/reading/reading.ts'
import { eventually } from '../support/eventually.ts'
import { payrollShard } from '../support/payroll-plan.ts'
import { useReadingShards } from '../support/reading-fixture.ts'
import type { ReadingGateway } from '../support/reading-gateway.ts'

/** A gateway has two connections to each node here, and more readers. */

const primary = 'eu-west/payroll.1' as NodeId
const near = 'eu-west/payroll.2' as NodeId
const far = 'eu-west/payroll.3' as NodeId
const tenant = 'globex-eu'
const patient = 30_000
const max = 2

const fixture = useReadingShards([{ name: payrollShard, followers: ['eu-west', 'eu-central'] }])
const { on, holdBack, letGo } = fixture

let pools: ConnectionPools
/** How long each read was ready to stand behind others for a connection to the primary. */
let queuedAtPrimary: (number | undefined)[]
const endings: (() => void)[] = []

class WatchedPools extends ConnectionPools {
  override reserve(...[target, withinMs, queueMs]: Parameters<ConnectionPools['reserve']>) {
    if (target.host === fixture.shards.node(primary).host) queuedAtPrimary.push(queueMs)
    return super.reserve(target, withinMs, queueMs)
  }
}

beforeAll(async () => {
  await on(
    primary,
    'create function public.nap() returns text volatile language sql as $$ select pg_sleep(0.05)::text $$',
  )
})

afterEach(async () => {
  for (const end of endings.splice(0)) end()
  await pools.close()
})

async function openCrowded(limits: Partial<ReadLimits> = {}): Promise<ReadingGateway> {
  pools = new WatchedPools({ ...poolLimitsDefault, transactionConnectionsMax: max })
  queuedAtPrimary = []
  return fixture.open({ limits: { openWithinMs: 1_000, ...limits }, parts: { pools } })
}

/** As many reads as there are connections to the node, and none of them ends before it is told to. */
async function occupy({ reading }: ReadingGateway, node: NodeId): Promise<() => Promise<void>> {
  const ending = deferred<void>()
  endings.push(ending.resolve)
  const begun = Array.from({ length: max }, () => deferred<void>())
  const reads = begun.map(({ resolve }) =>
    read(
      reading,
      { tenant, ...(node === primary ? { level: 'primary' } : { prefer: node }), waitMs: patient },
      async (reader) => {
        await reader.query('payroll', 'select 1')
        resolve()
        await ending.promise
      },
    ),
  )
  await Promise.all(begun.map(({ promise }) => promise))
  return async () => {
    ending.resolve()
    await Promise.all(reads)
  }
}

const readNear = ({ reading }: ReadingGateway, request: Partial<ReadRequest> = {}) =>
  read(reading, { tenant, prefer: near, ...request }, (reader: Read) => reader.query('payroll', 'select 1'))
const isLost = ({ reading }: ReadingGateway, node: NodeId) => reading.watch.sightingOf(node).lostAtMs !== undefined

test('R12: readers that wait for a late follower and then for each other stay with it', async () => {
  const gateway = await openCrowded()
  await holdBack(near)
  const { frontier } = await gateway.write(tenant, (tx) =>
    tx.query('payroll', 'insert into runs (tenant, id, status) values ($1, $2, $3)', [tenant, 'herd', 'new']),
  )
  const herd = Array.from({ length: 60 }, () =>
    read(gateway.reading, { tenant, frontier, prefer: near, waitMs: patient }, async (reader) => {
      await reader.query('payroll', 'select nap()')
      return (await reader.query('payroll', `select status from runs where id = 'herd'`)).rows
    }),
  )
  await eventually(() => gateway.reading.watch.watchedNodes === 1)
  await letGo(near)
  for (const { value, served } of await Promise.all(herd)) {
    expect(value).toEqual([{ status: 'new' }])
    expect(served[0]).toMatchObject({ node: near, rerouted: false })
  }
  expect(isLost(gateway, near)).toBe(false)
})

test('R14: past its budget a read leaves the queue for another follower, and nobody else leaves the node', async () => {
  const gateway = await openCrowded({ openWithinMs: 5_000 })
  const leave = await occupy(gateway, near)
  const { served } = await readNear(gateway, { waitMs: 100 })
  expect(served[0]).toMatchObject({ node: far, rerouted: true })
  expect(served[0]?.waitedMs).toBeGreaterThanOrEqual(70)
  expect(isLost(gateway, near)).toBe(false)
  await leave()
  expect((await readNear(gateway, { waitMs: patient })).served[0]).toMatchObject({ node: near, rerouted: false })
})

test('R14: a queue is waited in for as long as the budget lasts, however long a node may take to answer', async () => {
  const gateway = await openCrowded({ openWithinMs: 500 })
  const leave = await occupy(gateway, near)
  const reading = readNear(gateway, { waitMs: patient })
  // Longer than a node may be silent.
  await new Promise((resolve) => setTimeout(resolve, 700))
  await leave()
  const { served } = await reading
  expect(served[0]).toMatchObject({ node: near, rerouted: false })
  expect(served[0]?.waitedMs).toBeGreaterThanOrEqual(650)
})

test('R2: a function that is run again has what is left of the budget', async () => {
  const gateway = await openCrowded()
  await holdBack(near)
  const { frontier } = await gateway.write(tenant, (tx) =>
    tx.query('payroll', 'insert into runs (tenant, id, status) values ($1, $2, $3)', [tenant, 'twice', 'new']),
  )
  let runs = 0
  const { served } = await read(gateway.reading, { tenant, frontier, prefer: near, waitMs: 2_000 }, async (reader) => {
    runs += 1
    const { rows } = await reader.query<{ pid: number }>('payroll', 'select pg_backend_pid() as pid')
    if (runs === 1) await on(primary, 'select pg_terminate_backend($1)', [rows[0]?.pid])
    return reader.query('payroll', 'select 1')
  })
  expect(runs).toBe(2)
  expect(served[0]).toMatchObject({ node: far, rerouted: true })
  // Three quarters of the budget went to the first run.
  expect(served[0]?.waitedMs).toBeLessThan(1_200)
})

test('R14: readers of a crowded follower take of the primary what is free, and do not stand in its queue', async () => {
  const gateway = await openCrowded({ openWithinMs: 5_000 })
  await occupy(gateway, near)
  await occupy(gateway, far)
  queuedAtPrimary = []
  const { served } = await readNear(gateway, { waitMs: 40 })
  expect(served[0]).toMatchObject({ node: primary, rerouted: true })
  expect(queuedAtPrimary).toEqual([0])
  await occupy(gateway, primary)
  const failed = readNear(gateway, { waitMs: 40 })
  await expect(failed).rejects.toMatchObject({
    code: 'node_unavailable',
    retry: 'safe',
    message: expect.stringMatching(/eu-west\/payroll\.2 was not asked: no connection was free within \d+ ms: 2 of 2/),
    detail: {
      why: 'busy',
      retryAfterMs: expect.any(Number),
      asked: [near, far, primary].map((node) => ({ node, why: 'busy' })),
    },
  })
  expect([near, far, primary].some((node) => isLost(gateway, node))).toBe(false)
})

test.each(['first', 'second'])('R12: one that stands still at the %s statement of a read is left', async (place) => {
  const gateway = await openCrowded()
  await readNear(gateway)
  let runs = 0
  const pause = () => (runs === 1 ? fixture.shards.server(near).pause() : undefined)
  try {
    const { served } = await read(gateway.reading, { tenant, prefer: near }, async (reader) => {
      runs += 1
      if (place === 'first') await pause()
      await reader.query('payroll', 'select 1')
      if (place === 'second') await pause()
      await reader.query('payroll', 'select 1')
    })
    expect(served[0]?.node).not.toBe(near)
    expect(runs).toBe(place === 'first' ? 1 : 2)
    expect(isLost(gateway, near)).toBe(true)
  } finally {
    await fixture.shards.server(near).resume()
  }
})

test('R12: behind a queue a node that stands still is found lost, and found again', async () => {
  const gateway = await openCrowded({ openWithinMs: 5_000, avoidForMs: 20 })
  const leave = await occupy(gateway, near)
  await fixture.shards.server(near).pause()
  try {
    await readNear(gateway, { waitMs: 0 })
    await eventually(() => isLost(gateway, near))
    expect((await readNear(gateway, { waitMs: patient })).served[0]).not.toMatchObject({ node: near })
  } finally {
    await fixture.shards.server(near).resume()
  }
  await leave()
  await eventually(async () => (await readNear(gateway)).served[0]?.node === near)
})
