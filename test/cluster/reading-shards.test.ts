import { describe, expect, test } from 'vitest'
import type { DomainName, NodeId, TenantName } from '../../src/directory/topology.ts'
import type { Tx } from '../../src/transaction/transaction.ts'
import type { ReadRequest } from '../../src/reading/reading.ts'
import { read } from '../../src/reading/reading.ts'
import { readUnchecked } from '../../src/reading/unchecked.ts'
import { emptyFrontier, joinFrontiers, type Frontier } from '../../src/session/frontier.ts'
import { pushBranch } from '../../src/transaction/in-doubt.ts'
import { eventually } from '../support/eventually.ts'
import { ManualClock } from '../support/manual-clock.ts'
import { payrollShard, treasuryShard } from '../support/payroll-plan.ts'
import { useReadingShards } from '../support/reading-fixture.ts'

/** Reads over two shards: what one shard knows of another, and of branches that are decided and not settled. */

const payroll = 'eu-west/payroll.1' as NodeId
const payrollFollower = 'eu-west/payroll.2' as NodeId
const treasury = 'us-east/treasury.1' as NodeId
const treasuryFollower = 'us-east/treasury.2' as NodeId
const tenant = 'globex-eu'
const patient = 30_000

const fixture = useReadingShards([
  { name: payrollShard, followers: ['eu-west'] },
  { name: treasuryShard, followers: ['us-east'] },
])

let runs = 0
const newId = () => `run-${(runs += 1)}`

const insertRun = (tx: Tx, id: string, status: string) =>
  tx.query('payroll', 'insert into runs (tenant, id, status) values ($1, $2, $3)', [tenant, id, status])

/** One global transaction: a run at home, and its hold at the treasury. */
async function approve(id: string, before?: Frontier) {
  return fixture.gateway.write(
    tenant,
    async (tx) => {
      await insertRun(tx, id, 'approved')
      tx.batch('treasury', [['insert into holds (tenant, run, amount) values ($1, $2, 100)', [tenant, id]]])
    },
    before,
  )
}

/** The same, ending before its branch is settled. */
async function approveUnsettled(id: string, before?: Frontier) {
  fixture.gateway.holdSettlement(true)
  const written = await approve(id, before)
  fixture.gateway.holdSettlement(false)
  return written
}

async function holdsOf(ids: readonly string[], request: Partial<ReadRequest>, gateway = fixture.gateway) {
  const answer = await read(gateway.reading, { tenant, ...request }, async (reader) => {
    const { rows } = await reader.query<{ run: string }>(
      'treasury',
      'select run from holds where run = any($1) order by run',
      [ids],
    )
    return rows.map(({ run }) => run)
  })
  return { ...answer, by: answer.served[0] }
}

async function uncheckedHolds(id: string, node: NodeId): Promise<number> {
  const text = 'select run from holds where run = $1'
  return (await readUnchecked(fixture.gateway.reading, { tenant, node, text, values: [id] })).rowCount
}

describe('a branch that is decided and not settled', () => {
  test('HZ-X3: the primary does not show it, so it is settled, then read', async () => {
    const id = newId()
    const { frontier } = await approveUnsettled(id)
    expect(await uncheckedHolds(id, treasury)).toBe(0)
    const answer = await holdsOf([id], { frontier, level: 'primary', waitMs: patient })
    expect(answer.value).toEqual([id])
    expect(answer.by).toMatchObject({ node: treasury, role: 'primary' })
  })

  test('R2: it is settled on the budget of the read, and goes on without one that cannot wait for it', async () => {
    const id = newId()
    const { frontier, transactionId } = await approveUnsettled(id)
    let letGo = () => {}
    const held = new Promise<void>((resolve) => (letGo = resolve))
    const { settle } = fixture.gateway.reading
    const clock = new ManualClock()
    const slow = await fixture.open({
      parts: { clock, settle: (shard, branch) => held.then(() => settle(shard, branch)) },
    })
    const beganMs = clock.monotonicMs()
    let isOver = false
    const over = () => void (isOver = true)
    const refused = holdsOf([id], { frontier, level: 'primary', waitMs: 100 }, slow)
    refused.then(over, over)
    await eventually(async () => {
      if (clock.sleeping > 0) await clock.advance(10)
      return isOver
    })
    await expect(refused).rejects.toMatchObject({
      code: 'frontier_not_reached',
      detail: { missing: { what: 'transactions', transactionIds: [transactionId] } },
    })
    expect(clock.monotonicMs() - beganMs).toBe(100)
    letGo()
    await expect.poll(() => uncheckedHolds(id, treasury)).toBe(1)
  })

  test('HZ-X3: a follower shows it when the primary has settled it', async () => {
    const id = newId()
    const { frontier } = await approveUnsettled(id)
    const answer = await holdsOf([id], { frontier, prefer: treasuryFollower, waitMs: patient })
    expect(answer.value).toEqual([id])
    expect(answer.by).toMatchObject({ node: treasuryFollower, role: 'follower' })
  })

  test('HZ-X4: the position of the prepare is reached and proves nothing', async () => {
    const id = newId()
    const { frontier, transactionId } = await approveUnsettled(id)
    const unable = await fixture.open({ parts: { settle: () => Promise.resolve() } })
    await expect(holdsOf([id], { frontier, waitMs: 0 }, unable)).rejects.toMatchObject({
      code: 'frontier_not_reached',
      detail: { missing: { what: 'transactions', transactionIds: [transactionId] } },
    })
    expect((await holdsOf([id], { frontier, waitMs: patient })).value).toEqual([id])
  })

  test('HZ-T5: of two branches the second settles first, and the first is still demanded', async () => {
    const [first, second] = [newId(), newId()]
    const one = await approveUnsettled(first)
    const two = await approveUnsettled(second, one.frontier)
    await pushBranch(fixture.gateway.writing, treasuryShard, two.transactionId)
    expect(await uncheckedHolds(second, treasury)).toBe(1)
    expect(await uncheckedHolds(first, treasury)).toBe(0)
    const frontier = joinFrontiers(one.frontier, two.frontier)
    const unable = await fixture.open({ parts: { settle: () => Promise.resolve() } })
    await expect(holdsOf([first, second], { frontier, waitMs: 0 }, unable)).rejects.toMatchObject({
      detail: { missing: { what: 'transactions', transactionIds: [one.transactionId] } },
    })
    const answer = await holdsOf([first, second], { frontier, waitMs: patient })
    expect(answer.value).toEqual([first, second])
  })

  test('R7: a strong read shows what was acknowledged before it began, without a token', async () => {
    const id = newId()
    await approveUnsettled(id)
    expect(await uncheckedHolds(id, treasury)).toBe(0)
    const answer = await holdsOf([id], { level: 'strong' })
    expect(answer.value).toEqual([id])
  })

  test('R7: it settles on its budget, and is refused where that is too short', async () => {
    const id = newId()
    await approveUnsettled(id)
    await expect(holdsOf([id], { level: 'strong', waitMs: 0 })).rejects.toMatchObject({ code: 'node_unavailable' })
    expect((await holdsOf([id], { level: 'strong' })).value).toEqual([id])
  })

  test('R7: a primary that came after the one whose branches were settled is not believed', async () => {
    const { settleAll } = fixture.gateway.reading
    const asked: NodeId[] = []
    const replaced = await fixture.open({
      parts: {
        settleAll: async (shard, withinMs) => {
          const settled = await settleAll(shard, withinMs)
          const on = asked.length === 0 ? treasuryFollower : settled.on
          asked.push(on)
          return { ...settled, on }
        },
      },
    })
    const answer = await holdsOf([newId()], { level: 'strong' }, replaced)
    expect(asked).toEqual([treasuryFollower, treasury])
    expect(answer.by).toMatchObject({ node: treasury })
  })

  test('R7: HZ-S1: a strong read releases nothing that is not on the followers', async () => {
    const broken = await fixture.open({ parts: { barrier: () => Promise.reject(new Error('no barrier passes')) } })
    await expect(holdsOf([newId()], { level: 'strong' }, broken)).rejects.toThrowError(/no barrier passes/)
    expect((await holdsOf([newId()], { level: 'primary' }, broken)).value).toEqual([])
  })
})

describe('causal', () => {
  test('HZ-T4: what happened before, on a shard that the session has never touched', async () => {
    fixture.gateway.keepClock(payrollShard)
    const id = newId()
    await fixture.holdBack(payrollFollower)
    const written = await fixture.gateway.write(tenant, (tx) => insertRun(tx, id, 'approved'))
    // The message that reaches another session carries the time, and no shard.
    const told: Frontier = { ...emptyFrontier, timestamp: written.frontier.timestamp }
    const statusOf = (level: 'session' | 'causal') =>
      read(
        fixture.gateway.reading,
        { tenant, frontier: told, level, prefer: payrollFollower, waitMs: 2_000 },
        (reader) => reader.query('payroll', 'select status from runs where id = $1', [id]),
      )
    expect((await statusOf('session')).value.rows).toEqual([])
    const causal = await statusOf('causal')
    expect(causal.value.rows).toEqual([{ status: 'approved' }])
    expect(causal.served[0]).toMatchObject({ node: payroll, rerouted: true })
  })

  test('S10: a frontier of another shard is closed on an idle one', async () => {
    fixture.gateway.keepClock(payrollShard)
    fixture.gateway.keepClock(treasuryShard)
    const { frontier } = await fixture.gateway.write(tenant, (tx) => insertRun(tx, newId(), 'approved'))
    const answer = await holdsOf([], { frontier, level: 'causal', prefer: treasuryFollower, waitMs: patient })
    expect(answer.by).toMatchObject({ node: treasuryFollower })
  })
})

describe('bounded staleness', () => {
  const request = { level: 'stale', maxStaleMs: 5_000 } as const

  test('an answer is not older than asked for, or it is refused', async () => {
    await fixture.on(
      treasury,
      'update holdfast.closed set closed_timestamp = holdfast.wall_hlc() - (60000::bigint << 16)',
    )
    const refused = holdsOf([], { ...request, waitMs: 0 })
    await expect(refused).rejects.toMatchObject({ detail: { missing: { what: 'closed_timestamp' } } })
    fixture.gateway.keepClock(treasuryShard)
    await eventually(() =>
      holdsOf([], { ...request, waitMs: 0 }).then(
        () => true,
        () => false,
      ),
    )
  })

  test('what is older than all time may be as old as it is', async () => {
    fixture.gateway.keepClock(treasuryShard)
    const oldest = { ...request, maxStaleMs: Number.MAX_SAFE_INTEGER }
    expect((await holdsOf([], { ...oldest, waitMs: patient })).value).toEqual([])
  })

  test('it says nothing about the session, whose frontier stays as it was', async () => {
    fixture.gateway.keepClock(treasuryShard)
    const { frontier } = await approve(newId())
    expect((await holdsOf([], { ...request, frontier, waitMs: patient })).frontier).toBe(frontier)
  })
})

describe('the placement in the proof', () => {
  test('HZ-T6: a follower that has not heard of a move does not answer, though it is closed past the frontier', async () => {
    fixture.gateway.keepClock(payrollShard)
    const id = newId()
    await fixture.gateway.write(tenant, (tx) => insertRun(tx, id, 'copied'))
    await fixture.holdBack(payrollFollower)
    await fixture.on(
      payroll,
      `update holdfast.placement set version = version + 1 where tenant = $1 and domain = 'payroll'`,
      [tenant],
    )
    await fixture.gateway.reading.directory.refresh()
    const answer = await read(fixture.gateway.reading, { tenant, prefer: payrollFollower, waitMs: 0 }, (reader) =>
      reader.query('payroll', 'select status from runs where id = $1', [id]),
    )
    expect(answer.value.rows).toEqual([{ status: 'copied' }])
    expect(answer.served[0]).toMatchObject({ node: payroll, rerouted: true })
  })

  test('S5: a directory that is late is asked anew, and the read goes where the domain is', async () => {
    const { reading } = fixture.gateway
    await fixture.on(
      payroll,
      `update holdfast.placement set version = version + 1 where tenant = $1 and domain = 'payroll'`,
      [tenant],
    )
    const before = reading.directory.current().resolve(tenant, 'payroll').version
    await read(reading, { tenant, level: 'primary' }, (reader) => reader.query('payroll', 'select 1'))
    expect(reading.directory.current().resolve(tenant as TenantName, 'payroll' as DomainName).version).toBe(before + 1)
  })
})
