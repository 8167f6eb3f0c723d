import { bind, stampOf } from '../../test/support/bind.ts'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { approve, both, gatewayOf, insertHold, insertRun, newRun, request } from '../../test/support/approval.ts'
import type { GatewayOptions } from '../../test/support/database-shards.ts'
import { DatabaseShards, home, localTenant, scratch, tenant, treasury } from '../../test/support/database-shards.ts'
import { newTimeOrderedUuid } from '../base/random.ts'
import type { Epoch } from '../directory/topology.ts'
import { toHlc } from '../hlc/hlc.ts'
import { Connection } from '../postgres/connection.ts'
import { sqlState } from '../postgres/sqlstate.ts'
import type { TransactionEnvironment } from './environment.ts'
import { transact } from './transaction.ts'

let shards: DatabaseShards

beforeEach(async () => {
  shards = await DatabaseShards.open()
})

afterEach(async () => {
  await shards.close()
})

const gateway = (options?: GatewayOptions): Promise<TransactionEnvironment> => gatewayOf(shards, options)

describe('authority', () => {
  test('T1: a placement that moved on is refused at its shard, and tried again by the fresh directory', async () => {
    const environment = await gateway()
    for (const shard of [home, treasury]) {
      await shards.rows(shard, 'update holdfast.placement set version = 2 where tenant = $1', [tenant])
    }
    const run = newRun()
    let runs = 0
    const outcome = await transact(environment, request(run), async (tx) => {
      runs += 1
      await approve(run)(tx)
    })
    expect(runs).toBe(2)
    expect(outcome.shards.map(({ placementVersion }) => placementVersion)).toEqual([2, 2])
    await environment.background.drain()
    expect(await both(shards, run)).toEqual([1, 1])
  })

  test('HZ-P1: a stale stamp raises, so the commit behind it writes nothing', async () => {
    const stale = { current: () => shards.directory, refresh: () => Promise.resolve(shards.directory) }
    const environment = await gateway({ directory: stale })
    await shards.rows(home, 'update holdfast.placement set version = 2 where tenant = $1', [tenant])
    const run = newRun()
    await expect(transact(environment, request(run), approve(run))).rejects.toMatchObject({ code: 'placement_stale' })
    const alone = transact(environment, request(run), (tx) => tx.query('payroll', insertRun, [tenant, run]))
    await expect(alone).rejects.toMatchObject({ code: 'placement_stale' })
    await environment.background.drain()
    expect(await both(shards, run)).toEqual([0, 0])
    expect(await shards.prepared(treasury)).toEqual([])
  })

  test('rows that may be written are removed, with a condition and without one', async () => {
    const environment = await gateway()
    const [first, second] = [newRun(), newRun()]
    await transact(environment, request(first), async (tx) => {
      for (const run of [first, second]) await tx.query('payroll', insertRun, [tenant, run])
    })
    await transact(environment, request(first), (tx) => tx.query('payroll', 'delete from runs where id = $1', [first]))
    await transact(environment, request(second), (tx) => tx.query('payroll', 'delete from runs'))
    expect(await shards.rows(home, 'select from runs where tenant = $1', [tenant])).toEqual([])
  })

  test('a write to a shard that does not own the placement is refused there, with the reason', async () => {
    // A directory that believes the tenant's home to be at the treasury, and never learns better.
    const wrong = shards.directory.advance([
      { ...shards.directory.resolve(tenant, 'payroll'), shard: treasury, version: 9 as never },
    ])
    const environment = await gateway({ directory: { current: () => wrong, refresh: () => Promise.resolve(wrong) } })
    const run = newRun()
    const attempt = transact(environment, request(run), (tx) => tx.query('payroll', insertRun, [tenant, run]))
    await expect(attempt).rejects.toMatchObject({
      code: 'placement_denied',
      message: `domain payroll of tenant ${tenant} is placed on ${home}, not here on ${treasury}`,
    })
    expect(await shards.rows(treasury, 'select from runs where id = $1', [run])).toEqual([])

    // Rows that are there, as after a move: neither changed nor removed.
    await shards.rows(treasury, "insert into runs (tenant, id, status, cents) values ($1, $2, 'left', 1)", [
      tenant,
      run,
    ])
    for (const sql of ["update runs set status = 'changed' where id = $1", 'delete from runs where id = $1']) {
      const change = transact(environment, request(run), (tx) => tx.query('payroll', sql, [run]))
      await expect(change).rejects.toMatchObject({ code: 'placement_denied', detail: { sqlState: 'HF004' } })
    }
    expect(await shards.rows(treasury, 'select status from runs where id = $1', [run])).toEqual([{ status: 'left' }])
  })

  test('HZ-X11: a shard of local durability refuses a branch and a decision, whatever a gateway believes of it', async () => {
    shards.replaceShard(scratch, { durability: 'quorum' })
    const environment = await gateway()
    const run = newRun()
    const asParticipant = transact(environment, request(run), async (tx) => {
      await tx.query('payroll', insertRun, [tenant, run])
      tx.batch('scratch', [['insert into notes values ($1, $2)', [tenant, run]]])
    })
    await expect(asParticipant).rejects.toMatchObject({
      code: 'durability_insufficient',
      detail: { shard: scratch, sqlState: sqlState.durabilityInsufficient },
    })
    const asHome = transact(environment, request(run, { tenant: localTenant }), async (tx) => {
      tx.batch('treasury', [[insertHold, [localTenant, run]]])
    })
    await expect(asHome).rejects.toMatchObject({
      code: 'durability_insufficient',
      detail: { shard: scratch, sqlState: sqlState.durabilityInsufficient },
    })
    await environment.background.drain()
    for (const shard of [scratch, treasury]) expect(await shards.prepared(shard)).toEqual([])
    expect(await both(shards, run)).toEqual([0, 0])
  })

  test('a fenced shard refuses the opening, and the topology is asked once more', async () => {
    const environment = await gateway()
    await shards.rows(home, 'select holdfast.fence(2)')
    const run = newRun()
    await expect(transact(environment, request(run), approve(run))).rejects.toMatchObject({ code: 'shard_fenced' })
    await shards.rows(home, 'call holdfast.open_shard(2)')
    shards.replaceShard(home, { epoch: 2 as Epoch })
    await transact(environment, request(run), approve(run))
  })

  test('HZ-F1: a change of placement during a transaction is seen by its stamp, or waited for by the mover', async () => {
    const environment = await gateway()
    const bump = () =>
      shards.rows(home, 'update holdfast.placement set version = version + 1 where tenant = $1', [tenant])
    const attempts: number[] = []
    const inReadCommitted = transact(environment, request('rc'), async (tx) => {
      await tx.query('payroll', 'select 1')
      if (attempts.push(1) === 1) await bump()
    })
    await inReadCommitted
    expect(attempts).toHaveLength(2)

    let open: string[] = []
    await transact(environment, request('rr', { isolation: 'repeatable read' }), async (tx) => {
      const { rows } = await tx.query<{ vxid: string }>(
        'payroll',
        "select virtualtransaction as vxid from pg_locks where pid = pg_backend_pid() and locktype = 'virtualxid'",
      )
      await bump()
      // What a mover waits for after the bump (DESIGN §3): the old snapshot is among it, so nothing stale outlives it.
      const waited = await shards.rows<{ vxid: string }>(
        home,
        "select virtualtransaction as vxid from pg_locks where locktype = 'virtualxid' and granted",
      )
      open = waited.map(({ vxid }) => vxid)
      expect(open).toContain(rows[0]?.vxid)
    })
  })
})

describe('order', () => {
  test('HZ-C10: the decision is stamped above every prepare, and the next commit at home above the decision', async () => {
    const environment = await gateway()
    // The participant's clock runs 400 ms ahead: within the offset.
    await shards.rows(
      treasury,
      'select holdfast.observe(holdfast.wall_hlc() + (400::bigint << 16), holdfast.wall_hlc())',
    )
    const run = newRun()
    const outcome = await transact(environment, request(run), approve(run))
    await environment.background.drain()
    const [branch] = await shards.rows<{ p: string }>(
      treasury,
      'select prepare_timestamp::text as p from holdfast.branch',
    )
    expect(outcome.commitTimestamp).toBeGreaterThan(BigInt(branch?.p ?? 0))
    const next = await transact(environment, request(run), (tx) =>
      tx.query('payroll', 'delete from runs where id = $1', [run]),
    )
    expect(next.commitTimestamp).toBeGreaterThan(outcome.commitTimestamp)
  })

  test('HZ-C10: a stamp at or below a prepare timestamp is refused by the database', async () => {
    const direct = await Connection.connect(shards.target(home, 'holdfast_gateway'), 5_000)
    const id = newTimeOrderedUuid()
    try {
      const outcomes = await direct.flight([
        { text: 'begin' },
        bind(tenant, id),
        stampOf(tenant, id, 'holdfast.wall_hlc() + (90::bigint << 16)'),
        { text: 'commit' },
      ])
      expect(outcomes[2]).toMatchObject({ ok: false, error: { sqlState: 'HF014' } })
      expect(outcomes[3]).toMatchObject({ ok: true, tag: 'ROLLBACK' })
    } finally {
      direct.release()
    }
  })

  test('HZ-C10: home is not asked to pass what it was heard to be past, and a reading that is wrong costs one attempt', async () => {
    const environment = await gateway()
    const wallAnd = async (shard: typeof home, ms: number) =>
      (await shards.rows<{ clock: string }>(shard, 'select holdfast.wall_hlc() + ($1::bigint << 16) as clock', [ms]))[0]
    const heard = async (ms: number) =>
      environment.clocks.note(shards.shard(home), toHlc(BigInt((await wallAnd(home, ms))?.clock ?? 0)))
    await shards.rows(home, 'select holdfast.observe($1, $1)', [(await wallAnd(home, 300))?.clock])
    await shards.rows(home, 'alter function holdfast.observe(bigint, bigint) rename to observe_away')
    await heard(290)
    const { commitTimestamp } = await transact(environment, request('heard'), approve(newRun()))
    expect(commitTimestamp).toBeGreaterThan(0n)
    await environment.background.drain()
    await shards.rows(home, 'alter function holdfast.observe_away(bigint, bigint) rename to observe')

    await shards.rows(treasury, 'select holdfast.observe($1, $1)', [(await wallAnd(treasury, 450))?.clock])
    await heard(2_000)
    const run = newRun()
    let attempts = 0
    await transact(environment, request(run), (tx) => {
      attempts += 1
      return approve(run)(tx)
    })
    expect(attempts).toBe(2)
    await environment.background.drain()
    expect(await both(shards, run)).toEqual([1, 1])
  })

  test('HZ-C8: the stamp has its transaction id before it draws', async () => {
    const direct = await Connection.connect(shards.target(home, 'holdfast_gateway'), 5_000)
    const xid = { text: 'select pg_current_xact_id_if_assigned()::text as xid' }
    try {
      const id = newTimeOrderedUuid()
      // A sequence that writes to the log assigns an id; after a draw it need not for a while.
      await shards.rows(home, "select nextval('holdfast.hlc')")
      // The floor refuses the stamp in the middle; what had been done by then is seen behind the savepoint.
      await shards.rows(home, "select setval('holdfast.floor', holdfast.wall_hlc() + (3600000::bigint << 16))")
      const outcomes = await direct.flight([
        { text: 'begin' },
        bind(tenant, id),
        { text: 'savepoint s' },
        xid,
        stampOf(tenant, id),
        { text: 'rollback to savepoint s' },
        xid,
      ])
      expect(outcomes[3]).toMatchObject({ rows: [{ xid: null }] })
      expect(outcomes[4]).toMatchObject({ ok: false, error: { sqlState: 'HF002' } })
      expect(outcomes[6]).toMatchObject({ rows: [{ xid: expect.any(String) as string }] })
    } finally {
      direct.release()
    }
  })

  test('a clock beyond the offset is refused before the vote, on either side', async () => {
    const environment = await gateway()
    const narrow = (shard: typeof home) => shards.rows(shard, 'update holdfast.shard set max_clock_offset_ms = 50')
    const ahead = (shard: typeof home) =>
      shards.rows(shard, 'select holdfast.observe(holdfast.wall_hlc() + (450::bigint << 16), holdfast.wall_hlc())')
    const run = newRun()
    await ahead(treasury)
    await narrow(home)
    await expect(transact(environment, request(run), approve(run))).rejects.toMatchObject({
      code: 'clock_offset_exceeded',
    })
    await environment.background.drain()
    expect(await shards.prepared(treasury)).toEqual([])

    await shards.rows(home, 'update holdfast.shard set max_clock_offset_ms = 500')
    await ahead(home)
    await narrow(treasury)
    const refused = await transact(environment, request(run), approve(run)).catch((error: unknown) => error)
    expect(refused).toMatchObject({ code: 'clock_offset_exceeded', detail: { shard: treasury } })
    expect(await both(shards, run)).toEqual([0, 0])
  })
})

describe('concurrent transactions', () => {
  test('T8: serialization failures are run again, and the sum is right', async () => {
    const environment = await gateway()
    const run = newRun()
    await shards.rows(home, "insert into runs (tenant, id, status, cents) values ($1, $2, 'draft', 1)", [tenant, run])
    const add = () =>
      transact(environment, request(run, { isolation: 'serializable' }), async (tx) => {
        const { rows } = await tx.query<{ cents: string }>('payroll', 'select cents from runs where id = $1', [run])
        await tx.query('payroll', 'update runs set cents = $2 where id = $1', [run, Number(rows[0]?.cents) + 1])
      })
    const ends = await Promise.allSettled(Array.from({ length: 6 }, add))
    const done = ends.filter(({ status }) => status === 'fulfilled').length
    for (const end of ends)
      if (end.status === 'rejected') expect(end.reason).toMatchObject({ code: 'serialization_failure' })
    const [row] = await shards.rows<{ cents: string }>(home, 'select cents from runs where id = $1', [run])
    expect(Number(row?.cents)).toBe(1 + done)
    expect(done).toBeGreaterThan(0)
  })

  test('stamps of transactions that wait for each other’s rows are in the order in which they got them', async () => {
    const environment = await gateway()
    const run = newRun()
    await shards.rows(home, "insert into runs (tenant, id, status, cents) values ($1, $2, 'draft', 1)", [tenant, run])
    const outcomes = await Promise.all(
      Array.from({ length: 12 }, () =>
        transact(environment, request(run), async (tx) => {
          const { rows } = await tx.query<{ cents: string }>(
            'payroll',
            'update runs set cents = cents + 1 where id = $1 returning cents',
            [run],
          )
          return Number(rows[0]?.cents)
        }),
      ),
    )
    const byRow = outcomes.toSorted((a, b) => a.value - b.value).map(({ commitTimestamp }) => commitTimestamp)
    expect(byRow).toEqual(byRow.toSorted((a, b) => (a < b ? -1 : 1)))
  })
})
