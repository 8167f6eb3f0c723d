import { describe, expect, test } from 'vitest'
import { isHoldfastError } from '../../src/base/errors.ts'
import { Directory } from '../../src/directory/directory.ts'
import type { NodeId, ShardName } from '../../src/directory/topology.ts'
import type { Read } from '../../src/reading/reading.ts'
import { snapshot, snapshotAsOperator } from '../../src/reading/snapshot.ts'
import type { Tx } from '../../src/transaction/transaction.ts'
import { eventually } from '../support/eventually.ts'
import { ManualClock } from '../support/manual-clock.ts'
import { payrollShard, treasuryShard } from '../support/payroll-plan.ts'
import { useReadingShards } from '../support/reading-fixture.ts'

/** Snapshots over two shards. A run at home and its hold at the treasury are written by one global transaction. */

const payroll = 'eu-west/payroll.1' as NodeId
const treasury = 'us-east/treasury.1' as NodeId
const tenant = 'globex-eu'
const domains = ['payroll', 'treasury']

const fixture = useReadingShards([
  { name: payrollShard, followers: ['eu-west'] },
  { name: treasuryShard, followers: ['us-east'] },
])

let runs = 0
const newId = () => `run-${(runs += 1)}`

async function approve(id: string, of = tenant) {
  return fixture.gateway.write(of, async (tx: Tx) => {
    await tx.query('payroll', 'insert into runs (tenant, id, status) values ($1, $2, $3)', [of, id, 'approved'])
    tx.batch('treasury', [['insert into holds (tenant, run, amount) values ($1, $2, 100)', [of, id]]])
  })
}

async function approveUnsettled(id: string) {
  fixture.gateway.holdSettlement(true)
  const written = await approve(id)
  fixture.gateway.holdSettlement(false)
  return written
}

/** What a snapshot shows of both sides. */
async function bothSides(read: Read): Promise<{ runs: string[]; holds: string[] }> {
  const approved = await read.query<{ id: string }>('payroll', 'select id from runs order by id')
  const held = await read.query<{ run: string }>('treasury', 'select run from holds order by run')
  return { runs: approved.rows.map(({ id }) => id), holds: held.rows.map(({ run }) => run) }
}

const nothing = { runs: [], holds: [] }

function unlessContended(error: unknown): { value: typeof nothing } {
  if (isHoldfastError(error, 'snapshot_contended')) return { value: nothing }
  throw error
}

/** The checker: a run without its hold, or a hold without its run. */
function fractures({ runs: approved, holds }: { runs: readonly string[]; holds: readonly string[] }): string[] {
  return [...approved.filter((id) => !holds.includes(id)), ...holds.filter((id) => !approved.includes(id))]
}

describe('a snapshot is never fractured', () => {
  test('a branch that is not settled is settled, and its shard is read anew', async () => {
    const id = newId()
    await approveUnsettled(id)
    const { value, served } = await snapshot(fixture.gateway.reading, { tenant, domains }, bothSides)
    expect(value.runs).toContain(id)
    expect(fractures(value)).toEqual([])
    expect(served.map(({ node }) => node).sort()).toEqual([payroll, treasury])
  })

  test('a home that was read too early is read anew', async () => {
    const [first, second] = [newId(), newId()]
    await approveUnsettled(first)
    const { reading } = fixture.gateway
    let settles = 0
    // The treasury is read again for the first run, and shows a second one that the home's snapshot came before.
    const eventful = await fixture.open({
      parts: {
        settle: async (shard, transactionId) => {
          settles += 1
          await reading.settle(shard, transactionId)
          if (settles === 1) await approve(second)
        },
      },
    })
    const { value } = await snapshot(eventful.reading, { tenant, domains }, bothSides)
    expect(settles).toBe(1)
    expect(value.runs).toEqual(expect.arrayContaining([first, second]))
    expect(fractures(value)).toEqual([])
  })

  test('when a branch cannot be settled the contention is told, with the transaction', async () => {
    const id = newId()
    const { transactionId } = await approveUnsettled(id)
    const unable = await fixture.open({ parts: { settle: () => Promise.resolve() } })
    await expect(snapshot(unable.reading, { tenant, domains }, bothSides)).rejects.toMatchObject({
      code: 'snapshot_contended',
      retry: 'safe',
      detail: { shards: [treasuryShard], transactionIds: [transactionId] },
    })
    const { value } = await snapshot(fixture.gateway.reading, { tenant, domains }, bothSides)
    expect(value.holds).toContain(id)
  })

  test('under a loop of global commits, while timestamps are closed', async () => {
    fixture.gateway.keepClock(payrollShard)
    fixture.gateway.keepClock(treasuryShard)
    let isBusy = true
    const writers = Array.from({ length: 3 }, async () => {
      while (isBusy) await approve(newId())
    })
    const seen: number[] = []
    try {
      while (seen.length < 40) {
        const { value } = await snapshot(fixture.gateway.reading, { tenant, domains }, bothSides).catch(unlessContended)
        expect(fractures(value)).toEqual([])
        if (value !== nothing) seen.push(value.runs.length)
      }
    } finally {
      isBusy = false
      await Promise.all(writers)
    }
    expect(new Set(seen).size).toBeGreaterThan(1)
  })

  test('it contains the frontier of the session, and the session goes on with what it was shown', async () => {
    const id = newId()
    const { frontier } = await approveUnsettled(id)
    const answer = await snapshot(fixture.gateway.reading, { tenant, domains, frontier, waitMs: 30_000 }, bothSides)
    expect(answer.value.holds).toContain(id)
    expect(answer.frontier.timestamp).toBeGreaterThanOrEqual(frontier.timestamp)
    expect(answer.frontier.shards.get(treasuryShard)?.histories[0]?.pending).toEqual([])
  })
})

describe('a branch that the session wrote', () => {
  test('R2: it is settled on a budget that is long enough for its distance', async () => {
    const { frontier } = await approveUnsettled(newId())
    const { settle } = fixture.gateway.reading
    const clock = new ManualClock()
    const far = await fixture.open({
      parts: {
        clock,
        distanceMs: () => 80,
        settle: async (shard, transactionId) => {
          await clock.sleep(100)
          await settle(shard, transactionId)
        },
      },
    })
    const taken = snapshot(far.reading, { tenant, domains, frontier }, bothSides)
    taken.catch(() => undefined)
    await eventually(() => clock.sleeping === 2)
    await clock.advance(100)
    const { value } = await taken
    expect(fractures(value)).toEqual([])
  })
})

describe('a branch that somebody wrote', () => {
  test('R2: is not waited for beyond the budget, over all rounds', async () => {
    await approveUnsettled(newId())
    const clock = new ManualClock()
    const settling: Promise<void>[] = []
    const slow = await fixture.open({
      parts: {
        clock,
        settle: () => {
          settling.push(clock.sleep(2_000))
          return Promise.all(settling).then(() => undefined)
        },
      },
    })
    const taken = snapshot(slow.reading, { tenant, domains, waitMs: 50 }, bothSides)
    let ended = false
    const end = taken.catch((error: unknown) => error).finally(() => (ended = true))
    await eventually(() => clock.sleeping === 2)
    await clock.advance(50)
    await eventually(async () => {
      await clock.advance(0)
      return ended
    })
    expect(await end).toMatchObject({ code: 'snapshot_contended' })
    await clock.advance(2_000)
  })
})

describe('what a snapshot may be asked', () => {
  test('domains that were declared, by statements that read', async () => {
    const { reading } = fixture.gateway
    const undeclared = snapshot(reading, { tenant, domains: ['payroll'] }, (read) => read.query('treasury', 'select 1'))
    await expect(undeclared).rejects.toMatchObject({ code: 'unknown_domain' })
    const writing = snapshot(reading, { tenant, domains }, (read) => read.query('payroll', 'delete from runs'))
    await expect(writing).rejects.toMatchObject({ code: 'statement_refused' })
    for (const invalid of [{ domains: [] }, { waitMs: Number.NaN }]) {
      const refused = snapshot(reading, { tenant, domains, ...invalid }, bothSides)
      await expect(refused).rejects.toMatchObject({ code: 'argument_invalid' })
    }
  })

  test('R8: nothing that its function left behind runs once it has ended', async () => {
    const { reading } = fixture.gateway
    const asAdministrator = {
      domains,
      targetOf: (node: Parameters<typeof reading.targetOf>[0]) => fixture.shards.target(node),
    }
    const left: Promise<unknown>[] = []
    const leave = async (ask: (text: string) => Promise<unknown>) => {
      const late = ask('select 1').then(() => ask('select current_user'))
      late.catch(() => undefined)
      left.push(late)
    }
    await snapshot(reading, { tenant, domains }, (read) => leave((text) => read.query('payroll', text)))
    await snapshotAsOperator(reading, asAdministrator, (read) => leave((text) => read.query(payrollShard, text)))
    const hasEnded = { status: 'rejected', reason: { code: 'argument_invalid', message: 'the read has ended' } }
    expect(await Promise.allSettled(left)).toMatchObject([hasEnded, hasEnded])
  })

  test('a tenant is shown its own rows', async () => {
    await approve(newId(), 'acme-de')
    const { value } = await snapshot(fixture.gateway.reading, { tenant: 'acme-de', domains }, bothSides)
    expect(value.runs).toHaveLength(1)
    expect(value.holds).toEqual(value.runs)
  })

  test('an operator is shown the rows of all tenants, and cannot write', async () => {
    const { reading } = fixture.gateway
    const asAdministrator = {
      domains,
      targetOf: (node: Parameters<typeof reading.targetOf>[0]) => fixture.shards.target(node),
    }
    await approveUnsettled(newId())
    const { value } = await snapshotAsOperator(reading, asAdministrator, async (read) => {
      expect(read.shardsOf('payroll')).toEqual([payrollShard])
      expect(read.shardsOf('treasury')).toEqual([treasuryShard])
      const idsOn = async (shard: ShardName, text: string) =>
        (await read.query<{ tenant: string; id: string }>(shard, text)).rows
      return {
        runs: await idsOn(payrollShard, 'select tenant, id from public.runs order by id'),
        holds: await idsOn(treasuryShard, 'select tenant, run as id from public.holds order by id'),
      }
    })
    expect(value.runs).toEqual(value.holds)
    expect(new Set(value.runs.map((row) => row.tenant))).toEqual(new Set([tenant, 'acme-de']))
    const writing = snapshotAsOperator(reading, asAdministrator, (read) =>
      read.query(payrollShard, 'delete from public.runs'),
    )
    await expect(writing).rejects.toMatchObject({ code: 'statement_refused' })
  })
  test('an operator is shown nothing of a domain that no tenant has yet', async () => {
    const directory = Directory.of(fixture.shards.plan.domains, [])
    const source = { current: () => directory, refresh: () => Promise.resolve(directory) }
    const { reading } = await fixture.open({ parts: { directory: source } })
    const request = { domains: ['payroll'], targetOf: reading.targetOf }
    const taken = snapshotAsOperator(reading, request, (read) => Promise.resolve(read.shardsOf('payroll')))
    expect(await taken).toEqual({ value: [], served: [] })
  })
})
