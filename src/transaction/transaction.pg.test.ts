import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { codeOf, insertRunAs, newRun, request } from '../../test/support/approval.ts'
import { DatabaseShards, home, tenant } from '../../test/support/database-shards.ts'
import type { TestGateway } from '../../test/support/database-shards.ts'
import { HoldfastError } from '../base/errors.ts'
import type { TransactRequest, Tx } from './transaction.ts'
import { transact } from './transaction.ts'

let shards: DatabaseShards
let gateway: TestGateway

beforeAll(async () => {
  shards = await DatabaseShards.open()
  gateway = await shards.gateway()
})

afterAll(() => shards?.close())

describe('a transaction of one shard', () => {
  test('commits its rows with a row of the commit log, and tells position and timestamp', async () => {
    const run = newRun()
    const outcome = await transact(gateway.environment, request(run), async (tx) => {
      await tx.query('payroll', insertRunAs, [tenant, run, 'draft', 100])
      const { rows, rowCount, command } = await tx.query<{ cents: string }>(
        'payroll',
        'update runs set status = $2 where id = $1 returning cents',
        [run, 'approved'],
      )
      expect({ rowCount, command }).toEqual({ rowCount: 1, command: 'UPDATE' })
      tx.emit('payroll.approved', { run })
      return rows[0]?.cents
    })
    expect(outcome).toMatchObject({
      value: '100',
      replayed: false,
      shards: [{ shard: home, role: 'home', epoch: 1, placementVersion: 1 }],
    })
    const [row] = await shards.rows(
      home,
      `select commit_timestamp::text as stamp, tenant, action, subject, actor, placements,
      participants from holdfast.commit_log where transaction_id = $1`,
      [outcome.transactionId],
    )
    expect(row).toEqual({
      stamp: String(outcome.commitTimestamp),
      tenant,
      action: 'payroll.approve',
      subject: run,
      actor: 'manager@globex.example',
      placements: { payroll: 1 },
      participants: [],
    })
    expect(await shards.rows(home, 'select status from runs where id = $1', [run])).toEqual([{ status: 'approved' }])
    expect(
      await shards.rows(home, 'select name, payload from holdfast.outbox where transaction_id = $1', [
        outcome.transactionId,
      ]),
    ).toEqual([{ name: 'payroll.approved', payload: { run } }])
  })

  test('with its events and its request as they were when they were given', async () => {
    const payload: Record<string, unknown> = { n: 1 }
    const asked = { ...request(newRun()), request: { n: 1 } as unknown, idempotencyKey: newRun() }
    const again = { ...asked }
    const outcome = await transact(gateway.environment, asked, async (tx) => {
      tx.emit('counted', payload)
      payload['n'] = 10n
      Object.assign(asked, { actor: 'somebody.else@globex.example', request: { n: 10n } })
    })
    const of = [outcome.transactionId]
    const events = 'select name, payload from holdfast.outbox where transaction_id = $1'
    expect(await shards.rows(home, events, of)).toEqual([{ name: 'counted', payload: { n: 1 } }])
    const actors = 'select actor from holdfast.commit_log where transaction_id = $1'
    expect(await shards.rows(home, actors, of)).toEqual([{ actor: again.actor }])
    expect(await transact(gateway.environment, again, async () => undefined)).toMatchObject({ replayed: true })
  })

  test('in one flight when nothing is awaited', async () => {
    const run = newRun()
    await transact(gateway.environment, request(run), async (tx) => {
      tx.batch('payroll', [[insertRunAs, [tenant, run, 'draft', 1]]])
    })
    expect(await shards.rows(home, 'select status from runs where id = $1', [run])).toEqual([{ status: 'draft' }])
  })

  test('gets a timestamp above the frontier of its caller', async () => {
    const first = await transact(gateway.environment, request('a'), async () => undefined)
    const frontier = (first.commitTimestamp + 300n * 65_536n) as typeof first.commitTimestamp
    const second = await transact(gateway.environment, request('b', { observe: frontier }), async () => undefined)
    expect(second.commitTimestamp).toBeGreaterThan(frontier)
  })

  test('HZ-C6: a frontier beyond the clock offset is refused, and nothing is written', async () => {
    const run = newRun()
    const frontier = (await transact(gateway.environment, request('a'), async () => undefined)).commitTimestamp
    const tooFar = (frontier + 60_000n * 65_536n) as typeof frontier
    const awaited = transact(gateway.environment, request(run, { observe: tooFar }), (tx) =>
      tx.query('payroll', insertRunAs, [tenant, run, 'draft', 1]),
    )
    expect(await codeOf(awaited)).toBe('clock_offset_exceeded')
    const batched = transact(gateway.environment, request(run, { observe: tooFar }), async (tx) => {
      tx.batch('payroll', [[insertRunAs, [tenant, run, 'draft', 1]]])
    })
    expect(await codeOf(batched)).toBe('clock_offset_exceeded')
    expect(await shards.rows(home, 'select from runs where id = $1', [run])).toEqual([])
  })
})

describe('a refused transaction', () => {
  test('rethrows what the function threw, writes nothing, and is journalled', async () => {
    const run = newRun()
    const refusal = new HoldfastError('transaction_refused', 'the run is approved already')
    const attempt = transact(gateway.environment, request(run), async (tx) => {
      await tx.query('payroll', insertRunAs, [tenant, run, 'draft', 1])
      throw refusal
    })
    await expect(attempt).rejects.toBe(refusal)
    await gateway.environment.background.drain()
    expect(await shards.rows(home, 'select from runs where id = $1', [run])).toEqual([])
    expect(
      await shards.rows(home, 'select code, reason, actor from holdfast.attempt where subject = $1', [run]),
    ).toEqual([{ code: 'transaction_refused', reason: 'the run is approved already', actor: 'manager@globex.example' }])
  })

  test('names the constraint that refused it, and journals no value of a row', async () => {
    const run = newRun()
    const attempt = transact(gateway.environment, request(run), (tx) =>
      tx.query('payroll', insertRunAs, [tenant, run, 'draft', -5]),
    )
    await expect(attempt).rejects.toMatchObject({
      code: 'constraint_violated',
      detail: { constraint: 'runs_cents_check' },
    })
    await gateway.environment.background.drain()
    expect(await shards.rows(home, 'select code, reason from holdfast.attempt where subject = $1', [run])).toEqual([
      { code: 'constraint_violated', reason: 'SQLSTATE 23514, runs_cents_check' },
    ])
  })

  test('a deferred constraint refuses it as any other does', async () => {
    const run = newRun()
    const attempt = transact(gateway.environment, request(run), (tx) =>
      tx.query('payroll', 'insert into lines (tenant, run, cents) values ($1, $2, 1)', [tenant, run]),
    )
    expect(await codeOf(attempt)).toBe('constraint_violated')
    expect(await shards.rows(home, 'select from holdfast.commit_log where subject = $1', [run])).toEqual([])
  })

  test('HZ-C5: deferred triggers, and the locks that they wait for, come before the stamp', async () => {
    await shards.admin(home).script(`
      create table late (tenant text not null);
      call holdfast.govern('late', 'payroll', 'regulated');
      create function look() returns trigger language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
      begin
        if exists (select from holdfast.commit_log c where c.xid = pg_current_xact_id()) then
          raise exception 'it is stamped already';
        end if;
        return null;
      end $$;
      create constraint trigger look after insert on late deferrable initially deferred for each row execute function look();`)
    const insertLate = 'insert into late values ($1)'
    await transact(gateway.environment, request('x'), (tx) => tx.query('payroll', insertLate, [tenant]))
    await transact(gateway.environment, request('x'), async (tx) => tx.batch('payroll', [[insertLate, [tenant]]]))
    await transact(gateway.environment, request('x'), async (tx) => {
      await tx.query('payroll', insertLate, [tenant])
      await tx.query('payroll', 'set constraints all deferred')
    })
    expect(await shards.rows(home, 'select from late')).toHaveLength(3)
  })

  test('is refused when its function swallowed the error of a statement', async () => {
    const run = newRun()
    const attempt = transact(gateway.environment, request(run), async (tx) => {
      await tx.query('payroll', insertRunAs, [tenant, run, 'draft', 1])
      await tx.query('payroll', 'select 1 / 0').catch(() => undefined)
    })
    await expect(attempt).rejects.toMatchObject({ code: 'statement_failed', detail: { sqlState: '22012' } })
    expect(await shards.rows(home, 'select from runs where id = $1', [run])).toEqual([])
  })

  test('goes on after a rollback to a savepoint', async () => {
    const run = newRun()
    await transact(gateway.environment, request(run), async (tx) => {
      await tx.query('payroll', 'savepoint before')
      await tx.query('payroll', 'select 1 / 0').catch(() => undefined)
      await tx.query('payroll', 'rollback to savepoint before')
      await tx.query('payroll', insertRunAs, [tenant, run, 'draft', 1])
    })
    expect(await shards.rows(home, 'select from runs where id = $1', [run])).toHaveLength(1)
  })

  test('waits for statements that its function left behind', async () => {
    const run = newRun()
    const attempt = transact(gateway.environment, request(run), async (tx) => {
      const left = tx.query('payroll', insertRunAs, [tenant, run, 'draft', -1])
      left.catch(() => undefined)
    })
    expect(await codeOf(attempt)).toBe('constraint_violated')
  })

  test('tells a bad request before anything is sent', async () => {
    const bad: [Partial<TransactRequest>, string][] = [
      [{ tenant: 'nobody' }, 'unknown_tenant'],
      [{ tenant: '' }, 'argument_invalid'],
      [{ actor: 'x'.repeat(600) }, 'argument_invalid'],
      [{ isolation: 'serializable; commit' as 'serializable' }, 'argument_invalid'],
      [{ idempotencyKey: '' }, 'argument_invalid'],
    ]
    for (const [change, expected] of bad) {
      expect(await codeOf(transact(gateway.environment, request('x', change), async () => undefined))).toBe(expected)
    }
    const unknownDomain = transact(gateway.environment, request('x'), (tx) => tx.query('nowhere', 'select 1'))
    expect(await codeOf(unknownDomain)).toBe('unknown_domain')
    const control = transact(gateway.environment, request('x'), (tx) => tx.client('payroll').query('commit'))
    expect(await codeOf(control)).toBe('statement_refused')
    const keyed = request('x', { idempotencyKey: 'k', request: { n: 10n } })
    expect(await codeOf(transact(gateway.environment, keyed, async () => undefined))).toBe('argument_invalid')
    const emits = transact(gateway.environment, request('x'), async (tx) => tx.emit('counted', { n: 10n }))
    expect(await codeOf(emits)).toBe('argument_invalid')
    const circular: Record<string, unknown> = {}
    circular['self'] = circular
    const unsendable = transact(gateway.environment, request('x'), (tx) =>
      tx.query('payroll', 'select $1::jsonb', [circular]),
    )
    expect(await codeOf(unsendable)).toBe('argument_invalid')
  })

  test('at a shard that the topology does not know is told so, and is in no journal', async () => {
    const current = () => ({ ...shards.topology.current(), shards: new Map() })
    const topology = { current, refresh: () => Promise.resolve(current()) }
    const { environment } = await shards.gateway({ topology, directory: gateway.environment.directory })
    expect(await codeOf(transact(environment, request('x'), async () => undefined))).toBe('unknown_shard')
    await environment.background.drain()
  })

  test('A3: cannot be used once it was committed, which is told as nobody may await it', async () => {
    const told: unknown[] = []
    const { environment } = await shards.gateway({ onBackgroundFailure: (error) => void told.push(error) })
    let late: (() => Promise<unknown>) | undefined
    await transact(environment, request('x'), async (tx) => {
      late = () => tx.query('payroll', 'select 1')
    })
    expect(await codeOf(late?.() ?? Promise.resolve())).toBe('argument_invalid')
    await environment.background.drain()
    expect(told).toMatchObject([{ message: expect.stringContaining('came when its commit had been sent') }])
  })
})

describe('T8: after a migration under a gateway that runs', () => {
  /** Lets nobody go on before so many have come. */
  function meeting(size: number): () => Promise<void> {
    let open = () => {}
    const opened = new Promise<void>((resolve) => (open = resolve))
    let came = 0
    return () => {
      came += 1
      if (came === size) open()
      return opened
    }
  }

  const insertInto = (table: string) => `insert into ${table} values ($1) returning *`

  test.each<[string, string, (tx: Tx, text: string) => Promise<unknown> | void]>([
    ['are awaited', 'awaited', (tx, text) => tx.query('payroll', text, [tenant])],
    ['travel with the commit', 'batched', (tx, text) => tx.batch('payroll', [[text, [tenant]]])],
  ])(
    'statements that %s and were prepared before it are run again, on whichever connection',
    async (_, table, write) => {
      await shards.rows(home, `create table ${table} (tenant text not null)`)
      await shards.rows(home, `call holdfast.govern('${table}', 'payroll', 'regulated')`)
      const { environment } = await shards.gateway()
      let runs = 0
      const act = (meet = () => Promise.resolve()) =>
        transact(environment, request(newRun()), async (tx) => {
          runs += 1
          await tx.query('payroll', 'select 1')
          await meet()
          await write(tx, insertInto(table))
        })
      // Each has a connection of its own.
      const meet = meeting(8)
      await Promise.all(Array.from({ length: 8 }, () => act(meet)))
      await shards.rows(home, `alter table ${table} add column body text`)
      runs = 0
      await act()
      expect(runs).toBe(2)
      await Promise.all(Array.from({ length: 8 }, () => act()))
      expect(await shards.rows(home, `select from ${table}`)).toHaveLength(17)
    },
  )
})
