import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import type { GatewayOptions } from '../../test/support/database-shards.ts'
import { DatabaseShards, home, tenant, treasury } from '../../test/support/database-shards.ts'
import { HoldfastError } from '../base/errors.ts'
import { newRandomUuid, newTimeOrderedUuid } from '../base/random.ts'
import type { OnStep, StepName } from '../base/step.ts'
import type { Epoch, TransactionId } from '../directory/topology.ts'
import { toHlc } from '../hlc/hlc.ts'
import { Connection } from '../postgres/connection.ts'
import type { TransactionEnvironment } from './environment.ts'
import { formatGid } from './gid.ts'
import { explainInDoubt, listInDoubt, pushBranch } from './in-doubt.ts'
import { lookUpOutcome } from './outcome.ts'
import { Resolver, resolverLimitsDefault } from './resolver.ts'
import { settleBranch } from './settlement.ts'
import type { TransactRequest, Tx } from './transaction.ts'
import { transact } from './transaction.ts'

let shards: DatabaseShards

beforeEach(async () => {
  shards = await DatabaseShards.open()
})

afterEach(async () => {
  await shards.close()
})

const newRun = () => `run-${newRandomUuid().slice(0, 8)}`
const request = (subject: string, more: Partial<TransactRequest> = {}): TransactRequest => ({
  tenant,
  action: 'payroll.approve',
  subject,
  actor: 'manager@globex.example',
  ...more,
})
const insertRun = "insert into runs (tenant, id, status, cents) values ($1, $2, 'approved', 10)"
const insertHold = 'insert into holds (tenant, run, cents) values ($1, $2, 10)'
const ms = 65_536n

const approve = (run: string) => async (tx: Tx) => {
  await tx.query('payroll', insertRun, [tenant, run])
  tx.batch('treasury', [[insertHold, [tenant, run]]])
}

async function both(run: string): Promise<[home: number, treasury: number]> {
  const runs = await shards.rows(home, 'select from runs where id = $1', [run])
  const holds = await shards.rows(treasury, 'select from holds where run = $1', [run])
  return [runs.length, holds.length]
}

async function gateway(options: GatewayOptions = {}): Promise<TransactionEnvironment> {
  return (await shards.gateway(options)).environment
}

/** Stops whoever comes to a step until `release`; `reached` tells that somebody did. */
function gate(at: StepName) {
  let release = () => {}
  let reach = () => {}
  const opened = new Promise<void>((resolve) => {
    release = resolve
  })
  const reached = new Promise<void>((resolve) => {
    reach = resolve
  })
  const onStep: OnStep = async (step) => {
    if (step !== at) return
    reach()
    await opened
  }
  return { onStep, reached, release }
}

const eager = { ...resolverLimitsDefault, settleAfterMs: 0, abortAfterMs: 0 }

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
    expect(await both(run)).toEqual([1, 1])
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
    expect(await both(run)).toEqual([0, 0])
    expect(await shards.prepared(treasury)).toEqual([])
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
    await shards.rows(treasury, 'select holdfast.observe(holdfast.wall_hlc() + (400::bigint << 16))')
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
        { text: 'select 1 from holdfast.open($1, $2, 1, null, null)', values: [tenant, id] },
        {
          text: `select holdfast.stamp($1, 'a', 's', 'x', '{"payroll": 1}', '{}', holdfast.wall_hlc() + (90::bigint << 16), null, '[]')`,
          values: [id],
        },
        { text: 'commit' },
      ])
      expect(outcomes[2]).toMatchObject({ ok: false, error: { sqlState: 'HF014' } })
      expect(outcomes[3]).toMatchObject({ ok: true, tag: 'ROLLBACK' })
    } finally {
      direct.release()
    }
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
        { text: 'select 1 from holdfast.open($1, $2, 1, null, null)', values: [tenant, id] },
        { text: 'savepoint s' },
        xid,
        { text: `select holdfast.stamp($1, 'a', 's', 'x', '{"payroll": 1}', '{}', 0, null, '[]')`, values: [id] },
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
      shards.rows(shard, 'select holdfast.observe(holdfast.wall_hlc() + (450::bigint << 16))')
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
    expect(await both(run)).toEqual([0, 0])
  })

  test('HZ-P3: a decided timestamp is never refused, however far ahead it lies', async () => {
    const stop = gate('global decision row')
    const { environment, kill } = await shards.gateway({ onStep: stop.onStep })
    const run = newRun()
    const { transactionId } = await transact(environment, request(run), approve(run))
    await stop.reached
    await kill()
    await shards.rows(treasury, 'delete from holdfast.decision')
    const far = toHlc(
      (await shards.rows<{ wall: string }>(treasury, 'select holdfast.wall_hlc()::text as wall')).map(({ wall }) =>
        BigInt(wall),
      )[0] ?? 0n,
    )
    const settled = await settleBranch(await gateway(), {
      branch: { home, transactionId, participant: treasury },
      homeEpoch: 1 as Epoch,
      decision: { outcome: 'COMMITTED', commitTimestamp: toHlc(far + 3_600_000n * ms) },
    })
    expect(settled).toEqual({ kind: 'settled' })
    const [clock] = await shards.rows<{ clock: string }>(treasury, 'select last_value::text as clock from holdfast.hlc')
    expect(BigInt(clock?.clock ?? 0)).toBeGreaterThanOrEqual(far + 3_600_000n * ms)
  })
})

describe('the vote', () => {
  test('HZ-X5: a branch belongs to the gateway, and only that role settles it', async () => {
    const stop = gate('global record inserted')
    const environment = await gateway({ onStep: stop.onStep })
    const run = newRun()
    const outcome = transact(environment, request(run), approve(run))
    await stop.reached
    expect(
      await shards.rows(treasury, 'select owner from pg_prepared_xacts where database = current_database()'),
    ).toEqual([{ owner: 'holdfast_gateway' }])
    const [gid] = await shards.prepared(treasury)
    const app = await Connection.connect(shards.target(treasury, 'holdfast_app'), 5_000)
    await expect(app.query(`commit prepared '${gid}'`)).rejects.toMatchObject({ sqlState: '42501' })
    app.release()
    stop.release()
    await outcome
    await environment.background.drain()
    expect(await both(run)).toEqual([1, 1])
  })

  test('HZ-X6: what cannot be prepared is a definite no, and nothing is left behind', async () => {
    const environment = await gateway()
    // A function of a migration may do what no statement may.
    await shards.admin(treasury).script(`
      create function sneak() returns void language plpgsql as $$ begin create temp table if not exists t (x int); end $$;
      create schema if not exists x;`)
    const run = newRun()
    const attempt = transact(environment, request(run), async (tx) => {
      await tx.query('payroll', insertRun, [tenant, run])
      tx.batch('treasury', [[insertHold, [tenant, run]], ['select sneak()']])
    })
    await expect(attempt).rejects.toBeInstanceOf(HoldfastError)
    await environment.background.drain()
    expect(await both(run)).toEqual([0, 0])
    expect(await shards.prepared(treasury)).toEqual([])
  })

  test('G4: a participant that is prepared when another part says no is rolled back', async () => {
    const environment = await gateway()
    const run = newRun()
    const attempt = transact(environment, request(run), async (tx) => {
      tx.batch('payroll', [[insertRun, [tenant, run]], ['select 1 / 0']])
      tx.batch('treasury', [[insertHold, [tenant, run]]])
    })
    await expect(attempt).rejects.toMatchObject({ code: 'statement_failed', detail: { shard: home } })
    await environment.background.drain()
    expect(await both(run)).toEqual([0, 0])
    expect(await shards.prepared(treasury)).toEqual([])
  })
})

describe('presumed abort', () => {
  test('HZ-X12: whoever inserts the record first decides; a coordinator that comes late is refused', async () => {
    const stop = gate('global record inserted')
    const environment = await gateway({ onStep: stop.onStep })
    const run = newRun()
    const late = transact(environment, request(run), approve(run))
    late.catch(() => undefined)
    await stop.reached
    const other = await gateway()
    const resolver = new Resolver({ environment: other, limits: eager })
    const [resolved] = await resolver.resolveOnce(treasury)
    expect(resolved?.resolution).toEqual({ kind: 'settled', outcome: 'ABORTED' })
    stop.release()
    await expect(late).rejects.toMatchObject({ code: 'transaction_aborted' })
    await environment.background.drain()
    expect(await both(run)).toEqual([0, 0])
    const [record] = await shards.rows<{ id: TransactionId }>(
      home,
      'select transaction_id as id from holdfast.transaction_record',
    )
    expect(record).toBeDefined()
    expect(await lookUpOutcome(other, record?.id ?? ('' as TransactionId))).toMatchObject({ outcome: 'aborted', home })
  })

  test('HZ-X12: a settlement from an older epoch of home than the participant has seen is refused', async () => {
    const stop = gate('global decision row')
    const { environment, kill } = await shards.gateway({ onStep: stop.onStep })
    const run = newRun()
    const { transactionId, commitTimestamp } = await transact(environment, request(run), approve(run))
    await stop.reached
    await kill()
    await shards.rows(treasury, 'delete from holdfast.decision')
    await shards.rows(treasury, 'update holdfast.peer set epoch = 5')
    const other = await gateway()
    const branch = { home, transactionId, participant: treasury }
    const decision = { outcome: 'ABORTED' } as const
    const refused = await settleBranch(other, { branch, homeEpoch: 4 as Epoch, decision })
    expect(refused).toMatchObject({ kind: 'failed', cause: { sqlState: 'HF008' } })
    expect(await shards.prepared(treasury)).toHaveLength(1)
    const settled = await settleBranch(other, {
      branch,
      homeEpoch: 5 as Epoch,
      decision: { outcome: 'COMMITTED', commitTimestamp },
    })
    expect(settled).toEqual({ kind: 'settled' })
    expect(await settleBranch(other, { branch, homeEpoch: 5 as Epoch, decision })).toMatchObject({
      kind: 'failed',
      cause: { sqlState: 'HF010' },
    })
  })

  test('a branch is left while it may be its coordinator’s, and explained', async () => {
    const stop = gate('global record inserted')
    const environment = await gateway({ onStep: stop.onStep })
    const run = newRun()
    const outcome = transact(environment, request(run), approve(run))
    await stop.reached
    const patient = new Resolver({ environment, limits: { ...eager, abortAfterMs: 60_000 } })
    expect(await patient.resolveOnce(treasury)).toMatchObject([{ resolution: { kind: 'left' } }])
    expect(await explainInDoubt(environment, 60_000)).toMatchObject([{ home, participant: treasury, verdict: 'wait' }])
    expect(await explainInDoubt(environment, 0)).toMatchObject([{ verdict: 'roll back' }])
    stop.release()
    const { transactionId } = await outcome
    expect(await lookUpOutcome(environment, transactionId)).toMatchObject({
      outcome: 'committed',
      home,
      participants: [treasury],
    })
    expect(await lookUpOutcome(environment, newTimeOrderedUuid() as TransactionId)).toMatchObject({
      outcome: 'unknown',
    })
  })

  test('a branch whose record could have been collected stops for a person', async () => {
    const stop = gate('global record inserted')
    const { environment, kill } = await shards.gateway({ onStep: stop.onStep })
    const run = newRun()
    transact(environment, request(run), approve(run)).catch(() => undefined)
    await stop.reached
    await kill()
    await shards.rows(
      home,
      'update holdfast.shard set collected_through_ms = (extract(epoch from now()) * 1000)::bigint + 60000',
    )
    const other = await gateway()
    const stuck: string[] = []
    const resolver = new Resolver({ environment: other, limits: eager, onStuck: (_, why) => stuck.push(why) })
    expect(await resolver.resolveOnce(treasury)).toMatchObject([{ resolution: { kind: 'needs person' } }])
    expect(stuck).toHaveLength(1)
    expect(await shards.prepared(treasury)).toHaveLength(1)
  })

  test('branches of other fleets and prepared transactions of others are not touched', async () => {
    const environment = await gateway()
    const admin = shards.admin(treasury)
    const foreign = [
      'somebody else',
      formatGid('other', { home, transactionId: newTimeOrderedUuid() as TransactionId, participant: treasury }),
    ]
    for (const gid of foreign) {
      await admin.query('begin')
      await admin.query(`prepare transaction '${gid}'`)
    }
    expect(await listInDoubt(environment, treasury)).toEqual([])
    await new Resolver({ environment, limits: eager }).resolveOnce(treasury)
    expect((await shards.prepared(treasury)).toSorted()).toEqual(foreign.toSorted())
  })
})

describe('a reply before the branch is settled', () => {
  test('HZ-X3: the far primary does not show it yet; whoever carries the pending branch has it settled first', async () => {
    const stop = gate('global decision row')
    const slow = await gateway({ onStep: stop.onStep })
    const run = newRun()
    const { transactionId } = await transact(slow, request(run), approve(run))
    await stop.reached
    const environment = await gateway()
    const countHolds = async (tx: Tx) =>
      (await tx.query('treasury', 'select 1 from holds where run = $1', [run])).rowCount
    expect((await transact(environment, request('look'), countHolds)).value).toBe(0)
    const pending = [{ shard: treasury, transactionId }]
    expect((await transact(environment, request('look', { pending }), countHolds)).value).toBe(1)
    stop.release()
    await slow.background.drain()
    expect(await pushBranch(environment, treasury, transactionId)).toEqual({ kind: 'settled', outcome: 'COMMITTED' })
    expect(await pushBranch(environment, treasury, newTimeOrderedUuid() as TransactionId)).toEqual({ kind: 'absent' })
  })

  test('S1: the decision and the clock are there before the branch is', async () => {
    const stop = gate('global decision row')
    const environment = await gateway({ onStep: stop.onStep })
    const run = newRun()
    const { transactionId, commitTimestamp } = await transact(environment, request(run), approve(run))
    await stop.reached
    expect(await both(run)).toEqual([1, 0])
    expect(
      await shards.rows(treasury, 'select outcome from holdfast.decision where transaction_id = $1', [transactionId]),
    ).toEqual([{ outcome: 'COMMITTED' }])
    const [clock] = await shards.rows<{ clock: string }>(treasury, 'select last_value::text as clock from holdfast.hlc')
    expect(BigInt(clock?.clock ?? 0)).toBeGreaterThanOrEqual(commitTimestamp)
    stop.release()
    await environment.background.drain()
    expect(await both(run)).toEqual([1, 1])
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
