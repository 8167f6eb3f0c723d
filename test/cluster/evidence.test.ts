import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { approveRun, createRun } from '../../examples/payledger/payledger.ts'
import { newTimeOrderedUuid } from '../../src/base/random.ts'
import type { TransactionId } from '../../src/directory/topology.ts'
import { prove } from '../../src/evidence/evidence.ts'
import type { EvidenceSources } from '../../src/evidence/gather.ts'
import type { ProofStatus } from '../../src/evidence/proof-link.ts'
import type { TimelineEntry, TimelineRange } from '../../src/evidence/timeline.ts'
import { readTimeline } from '../../src/evidence/timeline-reader.ts'
import { viewTransaction } from '../../src/evidence/transaction-view.ts'
import type { Gateway } from '../../src/fleet/gateway.ts'
import { toHlc } from '../../src/hlc/hlc.ts'
import { eventually } from '../support/eventually.ts'
import { seedTenant, TestFleet } from '../support/fleet.ts'

/** What can be proven of an approval over two shards, and the history that it stands in. */

const tenant = 'globex-eu'
const actor = 'manager@globex-eu.example'
const home = 'eu-west/payroll'
const treasury = 'us-east/treasury'

let fleet: TestFleet
let gateway: Gateway

beforeAll(async () => {
  fleet = await TestFleet.open()
  gateway = await fleet.gateway('eu-west')
  await seedTenant(gateway, tenant)
})

afterAll(() => fleet?.close())

async function approve(run: string): Promise<TransactionId> {
  await createRun(gateway, { tenant, run, actor, department: 'hq' })
  const { transactionId } = await approveRun(gateway, { tenant, run, actor })
  return transactionId as TransactionId
}

function sources(change: Partial<EvidenceSources> = {}): EvidenceSources {
  return {
    environment: gateway.parts.environment,
    archiveOf: () => Promise.resolve(undefined),
    deliveriesOf: () => Promise.resolve([]),
    receiver: false,
    drillOf: () => Promise.resolve(null),
    ...change,
  }
}

async function statuses(
  id: TransactionId,
  change: Partial<EvidenceSources> = {},
): Promise<Record<string, ProofStatus>> {
  const { links } = await prove(sources(change), id)
  return Object.fromEntries(links.map(({ link, status }) => [link, status]))
}

async function timeline(range: TimelineRange = {}): Promise<TimelineEntry[]> {
  const entries: TimelineEntry[] = []
  const { environment } = gateway.parts
  for await (const entry of readTimeline({ environment, archives: new Map() }, range)) entries.push(entry)
  return entries
}

const settled = (id: string) =>
  eventually(async () => {
    const rows = await fleet.ask(treasury, 'select from holdfast.branch where transaction_id = $1', [id])
    return rows.length === 1
  })

describe('the evidence of an approval', () => {
  test('is proven as far as it goes, and pending where nothing was archived, delivered or rehearsed', async () => {
    const id = await approve('whole')
    await eventually(async () => (await statuses(id))['visibility'] === 'proven')
    await eventually(async () => (await statuses(id))['order'] === 'proven')
    expect(await statuses(id)).toEqual({
      placement: 'proven',
      authority: 'proven',
      order: 'proven',
      decision: 'proven',
      visibility: 'proven',
      durability: 'pending',
      effects: 'pending',
      recovery: 'pending',
    })
  })

  test('says who did what to which run, and when', async () => {
    const id = await approve('named')
    await settled(id)
    expect(await prove(sources(), id)).toMatchObject({ tenant, actor, action: 'payroll.approve', subject: 'named' })
    const view = await viewTransaction(gateway.parts.environment, id)
    expect(view).toMatchObject({ outcome: 'committed', home, record: { outcome: 'COMMITTED', homeEpoch: 1 } })
    expect(view.branches).toMatchObject([{ shard: treasury, state: 'committed' }])
  })

  test('HZ-X2: is broken when a shard has lost its half', async () => {
    const id = await approve('halved')
    await eventually(async () => (await statuses(id))['visibility'] === 'proven')
    // Until its timestamp is closed, what is not there may still come.
    await fleet.ask(treasury, 'delete from holdfast.branch where transaction_id = $1', [id])
    await eventually(async () => (await statuses(id))['visibility'] === 'broken')
    expect(await statuses(id)).toMatchObject({ decision: 'broken', visibility: 'broken' })
  })

  test('is broken when an effect was delivered twice, as the journal has it', async () => {
    const id = await approve('twice')
    await settled(id)
    const [event] = await fleet.ask<{ event_id: string }>(
      home,
      'select event_id from holdfast.outbox where transaction_id = $1',
      [id],
    )
    const about = {
      eventId: event?.event_id ?? '',
      transactionId: id,
      commitTimestamp: '1',
      tenant,
      name: 'payroll.approved',
    }
    const delivered = { ...about, state: 'delivered' as const, at: 0, reason: null }
    const journals = (times: number) => (shard: string) =>
      Promise.resolve(shard === home ? Array.from({ length: times }, () => delivered) : [])
    expect((await statuses(id, { deliveriesOf: journals(1) }))['effects']).toBe('proven')
    expect((await statuses(id, { deliveriesOf: journals(2) }))['effects']).toBe('broken')
  })

  test('V2: makes a source that cannot be read a pending link', async () => {
    const id = await approve('unread')
    const unreadable = () => Promise.reject(new Error('no such disk'))
    const all = await statuses(id, { archiveOf: unreadable, deliveriesOf: unreadable, drillOf: unreadable })
    expect(all).toMatchObject({ durability: 'pending', effects: 'pending', recovery: 'pending' })
  })

  test('of an id without a trace is refused', async () => {
    const id = newTimeOrderedUuid() as TransactionId
    await expect(prove(sources(), id)).rejects.toMatchObject({
      code: 'unknown_transaction',
      detail: { transactionId: id },
    })
  })
})

describe('V5: the merged history', () => {
  test('has what was acknowledged before the question, once, with its home first', async () => {
    const id = await approve('told')
    const entries = await timeline()
    expect(entries.filter(({ transactionId }) => transactionId === id)).toMatchObject([
      { tenant, action: 'payroll.approve', subject: 'told', actor, shards: [home, treasury], attributed: true },
    ])
  })

  test('is in the order of commit timestamps and has nothing twice', async () => {
    const ids = [await approve('first'), await approve('second'), await approve('third')]
    const entries = await timeline()
    const told = entries.map(({ transactionId }) => transactionId)
    expect(told.filter((id) => ids.includes(id as TransactionId))).toEqual(ids)
    expect(new Set(told).size).toBe(told.length)
  })

  test('has no approval that was refused, although its branch was prepared or tried', async () => {
    await createRun(gateway, { tenant, run: 'refused', actor, department: 'hq' })
    await fleet.ask(treasury, 'update public.treasury_accounts set balance_cents = reserved_cents where tenant = $1', [
      tenant,
    ])
    await expect(approveRun(gateway, { tenant, run: 'refused', actor })).rejects.toMatchObject({
      code: 'constraint_violated',
    })
    await fleet.ask(treasury, 'update public.treasury_accounts set balance_cents = 10000000000 where tenant = $1', [
      tenant,
    ])
    const ofRun = (await timeline()).filter(({ subject }) => subject === 'refused')
    expect(ofRun.map(({ action }) => action)).toEqual(['payroll.draft'])
  })

  test('between two timestamps has the first and not the last', async () => {
    const [first, last] = [await approve('from'), await approve('until')]
    const all = await timeline()
    const at = (id: string) => all.find(({ transactionId }) => transactionId === id)?.commitTimestamp ?? toHlc(0n)
    const told = (await timeline({ since: at(first), until: at(last) })).map(({ transactionId }) => transactionId)
    expect(told[0]).toBe(first)
    expect(told).not.toContain(last)
  })

  test('of one tenant has nothing of another', async () => {
    await seedTenant(gateway, 'initech-us')
    const tenants = new Set((await timeline({ tenant })).map((entry) => entry.tenant))
    expect([...tenants]).toEqual([tenant])
    expect((await timeline({ tenant: 'initech-us' })).map(({ shards }) => shards)).toEqual([[treasury]])
  })
})
