import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { present } from '../../src/base/assert.ts'
import type { NodeId } from '../../src/directory/topology.ts'
import type { ReadRequest } from '../../src/reading/reading.ts'
import { read } from '../../src/reading/reading.ts'
import { readUnchecked } from '../../src/reading/unchecked.ts'
import { emptyFrontier, type Frontier } from '../../src/session/frontier.ts'
import { eventually } from '../support/eventually.ts'
import { ManualClock } from '../support/manual-clock.ts'
import { payrollShard } from '../support/payroll-plan.ts'
import { useReadingShards } from '../support/reading-fixture.ts'

/** Reads of one shard: a primary and a follower in eu-west, another follower in eu-central. */

const primary = 'eu-west/payroll.1' as NodeId
const near = 'eu-west/payroll.2' as NodeId
const far = 'eu-west/payroll.3' as NodeId
const tenant = 'globex-eu'
const patient = 30_000

const fixture = useReadingShards([{ name: payrollShard, followers: ['eu-west', 'eu-central'] }], {
  limits: { openWithinMs: 2_000 },
})
const { on, holdBack, letGo } = fixture

let runs = 0
async function newRun(status: string): Promise<{ id: string; frontier: Frontier }> {
  runs += 1
  const id = `run-${runs}`
  const { frontier } = await fixture.gateway.write(tenant, (tx) =>
    tx.query('payroll', 'insert into runs (tenant, id, status) values ($1, $2, $3)', [tenant, id, status]),
  )
  return { id, frontier }
}

async function setStatus(id: string, status: string, before?: Frontier): Promise<Frontier> {
  const written = await fixture.gateway.write(
    tenant,
    (tx) => tx.query('payroll', 'update runs set status = $2 where id = $1', [id, status]),
    before,
  )
  return written.frontier
}

async function statusOf(id: string, request: Partial<ReadRequest>) {
  const answer = await read(fixture.gateway.reading, { tenant, ...request }, async (reader) => {
    const { rows } = await reader.query<{ status: string }>('payroll', 'select status from runs where id = $1', [id])
    return rows[0]?.status
  })
  return { ...answer, by: answer.served[0] }
}

async function uncheckedStatus(id: string, node: NodeId): Promise<string | undefined> {
  const text = 'select status from runs where id = $1'
  const { rows } = await readUnchecked<{ status: string }>(fixture.gateway.reading, {
    tenant,
    node,
    text,
    values: [id],
  })
  return rows[0]?.status
}

describe('read your writes', () => {
  test('R1: a follower shows every own write, however often it is asked right after', async () => {
    let { id, frontier } = await newRun('0')
    for (let n = 1; n <= 40; n += 1) {
      frontier = await setStatus(id, `${n}`, frontier)
      const answer = await statusOf(id, { frontier, prefer: near, waitMs: patient })
      expect(answer.value).toBe(`${n}`)
      expect(answer.by).toMatchObject({ node: near, role: 'follower', rerouted: false })
      frontier = answer.frontier
    }
  })

  test('a session goes on with the follower that had received more than it had replayed', async () => {
    const { id, frontier: before } = await newRun('draft')
    await eventually(async () => (await uncheckedStatus(id, near)) === 'draft')
    await holdBack(near)
    await setStatus(id, 'approved', before)
    const [flushed] = await on<{ lsn: string }>(primary, 'select pg_current_wal_flush_lsn()::text as lsn')
    await eventually(async () => {
      const text = 'select pg_last_wal_receive_lsn() >= $1::pg_lsn as has'
      return (await on<{ has: boolean }>(near, text, [flushed?.lsn]))[0]?.has === true
    })
    const first = await statusOf(id, {})
    expect(first).toMatchObject({ value: 'draft', by: { node: near } })
    await letGo(near)
    const second = await statusOf(id, { frontier: first.frontier, waitMs: patient })
    expect(second.by).toMatchObject({ node: near, rerouted: false })
  })

  test('but one whose replay stands still is waited for once, whoever else it can answer', async () => {
    const clock = new ManualClock()
    const { reading } = await fixture.open({ parts: { clock } })
    const readBy = async (frontier?: Frontier) => {
      const request = { tenant, waitMs: 0, ...(frontier === undefined ? {} : { frontier }) }
      const { served } = await read(reading, request, (reader) => reader.query('payroll', 'select status from runs'))
      return served[0]
    }
    const { id, frontier: before } = await newRun('draft')
    await holdBack(near)
    const frontier = await setStatus(id, 'approved', before)
    const [flushed] = await on<{ lsn: string }>(primary, 'select pg_current_wal_flush_lsn()::text as lsn')
    await eventually(async () => {
      const text = 'select pg_last_wal_receive_lsn() >= $1::pg_lsn as has'
      return (await on<{ has: boolean }>(near, text, [flushed?.lsn]))[0]?.has === true
    })
    const served = [await readBy(frontier)]
    for (let n = 0; n < 3; n += 1) served.push(await readBy(), await readBy(frontier))
    const others = [{ node: near }, { node: primary, rerouted: false }]
    expect(served).toMatchObject([{ node: primary, rerouted: true }, ...others, ...others, ...others])
  })

  test('R2: a follower that is held back is waited for, by all readers with one loop', async () => {
    const { id, frontier: before } = await newRun('draft')
    await eventually(async () => (await uncheckedStatus(id, near)) === 'draft')
    await holdBack(near)
    const frontier = await setStatus(id, 'approved', before)
    expect(await uncheckedStatus(id, near)).toBe('draft')
    const reads = Array.from({ length: 5 }, () => statusOf(id, { frontier, prefer: near, waitMs: patient }))
    await eventually(() => fixture.gateway.reading.watch.watchedNodes === 1)
    await letGo(near)
    for (const answer of await Promise.all(reads)) {
      expect(answer.value).toBe('approved')
      expect(answer.by).toMatchObject({ node: near, rerouted: false })
    }
    await eventually(() => fixture.gateway.reading.watch.watchedNodes === 0)
  })

  test('R2: past the budget it is asked of another follower, and then of the primary', async () => {
    const { id, frontier: before } = await newRun('draft')
    await holdBack(near)
    const frontier = await setStatus(id, 'approved', before)
    const other = await statusOf(id, { frontier, prefer: near, waitMs: 0 })
    expect(other.value).toBe('approved')
    expect(other.by).toMatchObject({ rerouted: true })
    expect(other.by?.node).not.toBe(near)
    await holdBack(far)
    const later = await setStatus(id, 'paid', frontier)
    const last = await statusOf(id, { frontier: later, prefer: near, waitMs: 10 })
    expect(last.value).toBe('paid')
    expect(last.by).toMatchObject({ node: primary, role: 'primary', rerouted: true })
  })

  test('R2: with the followers held back and the primary out of reach it fails, and says why', async () => {
    const { id, frontier: before } = await newRun('draft')
    await holdBack(near)
    await holdBack(far)
    const frontier = await setStatus(id, 'approved', before)
    const { shards } = fixture
    const cutOff = await fixture.open({
      limits: { openWithinMs: 300 },
      parts: { targetOf: (node) => ({ ...shards.targetOf(node), ...(node.id === primary ? { port: 1 } : {}) }) },
    })
    const failed = read(cutOff.reading, { tenant, frontier, waitMs: 20 }, (reader) =>
      reader.query('payroll', 'select status from runs where id = $1', [id]),
    )
    await expect(failed).rejects.toMatchObject({
      code: 'frontier_not_reached',
      category: 'unavailable',
      retry: 'safe',
      detail: {
        shard: payrollShard,
        retryAfterMs: expect.any(Number),
        missing: { what: 'position', lagBytes: expect.any(String) },
        asked: expect.arrayContaining([
          { node: near, why: 'behind' },
          { node: far, why: 'behind' },
          { node: primary, why: 'lost' },
        ]),
      },
    })
  })

  test('a follower that was late for a moment is asked again, a second later', async () => {
    const clock = new ManualClock()
    const { reading } = await fixture.open({ parts: { clock } })
    const readBy = async (frontier: Frontier) => {
      const text = 'select status from runs'
      const answer = await read(reading, { tenant, frontier, waitMs: 0 }, (reader) => reader.query('payroll', text))
      return { node: answer.served[0]?.node, frontier: answer.frontier }
    }
    const { id, frontier } = await newRun('draft')
    await holdBack(near)
    const late = await readBy(await setStatus(id, 'approved', frontier))
    await letGo(near)
    const [{ position } = { position: '' }] = await on<{ position: string }>(
      primary,
      'select pg_current_wal_flush_lsn()::text as position',
    )
    await eventually(async () => {
      const text = 'select pg_last_wal_replay_lsn() >= $1::pg_lsn as shows'
      return (await on<{ shows: boolean }>(near, text, [position]))[0]?.shows === true
    })
    const soon = await readBy(late.frontier)
    await clock.advance(1_001)
    expect([late.node, soon.node, (await readBy(late.frontier)).node]).toEqual([primary, primary, near])
  })

  test('waitMs 0 never waits', async () => {
    const { id, frontier: before } = await newRun('draft')
    await holdBack(near)
    const frontier = await setStatus(id, 'approved', before)
    const answer = await statusOf(id, { frontier, prefer: near, waitMs: 0 })
    expect(answer.by).toMatchObject({ waitedMs: 0, rerouted: true })
  })
})

describe('the snapshot that answers', () => {
  let opening: string

  beforeEach(async () => {
    const [row] = await on<{ source: string }>(
      primary,
      `select 'create or replace view holdfast.evidence as ' || pg_get_viewdef('holdfast.evidence'::regclass) as source`,
    )
    opening = present(row, 'the view').source
  })

  afterEach(async () => void (await on(primary, opening)))

  test('HZ-T1: a write that is replayed after the snapshot was taken is not taken for shown', async () => {
    const { id, frontier: before } = await newRun('draft')
    await eventually(async () => (await uncheckedStatus(id, near)) === 'draft')
    // The snapshot is taken; then the read stands still until the test lets it go on.
    const held = opening.replace(
      /\n +FROM /,
      '$&(select pg_advisory_lock_shared(77), pg_advisory_unlock_shared(77)) held, ',
    )
    expect(held).not.toBe(opening)
    await on(primary, held)
    await eventually(async () => {
      const [row] = await on<{ source: string }>(near, `select pg_get_viewdef('holdfast.evidence'::regclass) as source`)
      return row?.source.includes('77') === true
    })
    await on(near, 'select pg_advisory_lock(77)')
    await holdBack(near)
    const frontier = await setStatus(id, 'approved', before)
    // Only the position stands for the write here, as for a session that has read past it.
    const positionOnly = forgetIds(frontier)
    const reading = statusOf(id, { frontier: positionOnly, prefer: near, waitMs: patient })
    await eventually(async () => {
      const waiting = await on(near, `select from pg_locks where locktype = 'advisory' and not granted`)
      return waiting.length > 0
    })
    await letGo(near)
    const position = frontier.shards.get(payrollShard)?.histories[0]?.position ?? 0n
    await eventually(async () => {
      const [row] = await on<{ past: boolean }>(
        near,
        `select pg_last_wal_replay_lsn() >= '0/0'::pg_lsn + $1::numeric as past`,
        [position],
      )
      return row?.past === true
    })
    await on(near, 'select pg_advisory_unlock(77)')
    expect((await reading).value).toBe('approved')
  })
})

function forgetIds(frontier: Frontier): Frontier {
  const shard = frontier.shards.get(payrollShard)
  if (shard === undefined) return frontier
  const histories = shard.histories.map((history) => ({ ...history, lastTransactionIds: [], idsSuffice: false }))
  return { ...frontier, shards: new Map([[payrollShard, { ...shard, histories }]]) }
}

describe('monotonic reads', () => {
  test('R6: a session that hops between nodes never goes back, though it has written nothing', async () => {
    fixture.gateway.keepClock(payrollShard)
    const { id } = await newRun('0')
    let frontier = emptyFrontier
    let seen = -1
    for (let n = 1; n <= 45; n += 1) {
      await setStatus(id, `${n}`)
      const prefer = [primary, near, far][n % 3]
      const answer = await statusOf(id, { frontier, prefer, waitMs: patient })
      expect(Number(answer.value ?? -1)).toBeGreaterThanOrEqual(seen)
      seen = Number(answer.value ?? -1)
      frontier = answer.frontier
    }
    expect(seen).toBeGreaterThan(30)
  })

  test('R6: what the primary has shown is demanded of a follower that is held back', async () => {
    const { id } = await newRun('draft')
    await eventually(async () => (await uncheckedStatus(id, near)) === 'draft')
    await holdBack(near)
    await setStatus(id, 'approved')
    const first = await statusOf(id, { prefer: primary })
    expect(first.value).toBe('approved')
    expect(await uncheckedStatus(id, near)).toBe('draft')
    const second = await statusOf(id, { frontier: first.frontier, prefer: near, waitMs: 0 })
    expect(second.value).toBe('approved')
    expect(second.by?.node).not.toBe(near)
  })

  test('HZ-S4: a follower shows a commit that the primary hides; the session is not sent back to the primary', async () => {
    const { id } = await newRun('draft')
    fixture.gateway.keepClock(payrollShard)
    await on(primary, `alter system set synchronous_standby_names = 'nobody'`)
    await on(primary, 'select pg_reload_conf()')
    await eventually(async () => {
      const [row] = await on<{ names: string }>(primary, `select current_setting('synchronous_standby_names') as names`)
      return row?.names === 'nobody'
    })
    const writing = setStatus(id, 'approved')
    await eventually(async () => (await uncheckedStatus(id, near)) === 'approved')
    expect(await uncheckedStatus(id, primary)).toBe('draft')

    const first = await statusOf(id, { prefer: near })
    expect(first.value).toBe('approved')
    const second = statusOf(id, { frontier: first.frontier, level: 'primary', waitMs: 20 })
    await expect(second).rejects.toMatchObject({
      code: 'frontier_not_reached',
      detail: { missing: { what: 'closed_timestamp' } },
    })
    await on(primary, 'alter system reset synchronous_standby_names')
    await on(primary, 'select pg_reload_conf()')
    await writing
    const third = await statusOf(id, { frontier: first.frontier, level: 'primary', waitMs: patient })
    expect(third.value).toBe('approved')
  })
})
