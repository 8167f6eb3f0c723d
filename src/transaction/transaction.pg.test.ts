import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import {
  DatabaseShards,
  home,
  localTenant,
  otherTenant,
  scratch,
  tenant,
  treasury,
} from '../../test/support/database-shards.ts'
import type { TestGateway } from '../../test/support/database-shards.ts'
import { newRandomUuid } from '../base/random.ts'
import { HoldfastError } from '../base/errors.ts'
import type { TransactRequest } from './transaction.ts'
import { transact } from './transaction.ts'

let shards: DatabaseShards
let gateway: TestGateway

beforeAll(async () => {
  shards = await DatabaseShards.open()
  gateway = await shards.gateway()
})

afterAll(async () => {
  await gateway.close()
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
const insertRun = 'insert into runs (tenant, id, status, cents) values ($1, $2, $3, $4)'
const insertHold = 'insert into holds (tenant, run, cents) values ($1, $2, $3)'

async function code(promise: Promise<unknown>): Promise<string> {
  try {
    await promise
    return 'fulfilled'
  } catch (error) {
    return error instanceof HoldfastError ? error.code : String(error)
  }
}

describe('a transaction of one shard', () => {
  test('commits its rows with a row of the commit log, and tells position and timestamp', async () => {
    const run = newRun()
    const outcome = await transact(gateway.environment, request(run), async (tx) => {
      await tx.query('payroll', insertRun, [tenant, run, 'draft', 100])
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

  test('in one flight when nothing is awaited', async () => {
    const run = newRun()
    await transact(gateway.environment, request(run), async (tx) => {
      tx.batch('payroll', [[insertRun, [tenant, run, 'draft', 1]]])
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
      tx.query('payroll', insertRun, [tenant, run, 'draft', 1]),
    )
    expect(await code(awaited)).toBe('clock_offset_exceeded')
    const batched = transact(gateway.environment, request(run, { observe: tooFar }), async (tx) => {
      tx.batch('payroll', [[insertRun, [tenant, run, 'draft', 1]]])
    })
    expect(await code(batched)).toBe('clock_offset_exceeded')
    expect(await shards.rows(home, 'select from runs where id = $1', [run])).toEqual([])
  })
})

describe('a refused transaction', () => {
  test('rethrows what the function threw, writes nothing, and is journalled', async () => {
    const run = newRun()
    const refusal = new HoldfastError('transaction_refused', 'the run is approved already')
    const attempt = transact(gateway.environment, request(run), async (tx) => {
      await tx.query('payroll', insertRun, [tenant, run, 'draft', 1])
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
      tx.query('payroll', insertRun, [tenant, run, 'draft', -5]),
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
    expect(await code(attempt)).toBe('constraint_violated')
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
      await tx.query('payroll', insertRun, [tenant, run, 'draft', 1])
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
      await tx.query('payroll', insertRun, [tenant, run, 'draft', 1])
    })
    expect(await shards.rows(home, 'select from runs where id = $1', [run])).toHaveLength(1)
  })

  test('waits for statements that its function left behind', async () => {
    const run = newRun()
    const attempt = transact(gateway.environment, request(run), async (tx) => {
      const left = tx.query('payroll', insertRun, [tenant, run, 'draft', -1])
      left.catch(() => undefined)
    })
    expect(await code(attempt)).toBe('constraint_violated')
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
      expect(await code(transact(gateway.environment, request('x', change), async () => undefined))).toBe(expected)
    }
    const unknownDomain = transact(gateway.environment, request('x'), (tx) => tx.query('nowhere', 'select 1'))
    expect(await code(unknownDomain)).toBe('unknown_domain')
    const control = transact(gateway.environment, request('x'), (tx) => tx.client('payroll').query('commit'))
    expect(await code(control)).toBe('statement_refused')
    const circular: Record<string, unknown> = {}
    circular['self'] = circular
    const unsendable = transact(gateway.environment, request('x'), (tx) =>
      tx.query('payroll', 'select $1::jsonb', [circular]),
    )
    expect(await code(unsendable)).toBe('argument_invalid')
  })

  test('cannot be used after its function ended', async () => {
    let late: (() => Promise<unknown>) | undefined
    await transact(gateway.environment, request('x'), async (tx) => {
      late = () => tx.query('payroll', 'select 1')
    })
    expect(await code(late?.() ?? Promise.resolve())).toBe('argument_invalid')
  })
})

describe('confinement', () => {
  test('rows of another tenant are neither seen nor written', async () => {
    const run = newRun()
    await shards.rows(home, insertRun, [otherTenant, run, 'draft', 1])
    const seen = await transact(
      gateway.environment,
      request('x'),
      async (tx) => (await tx.query('payroll', 'select 1 from runs where id = $1', [run])).rowCount,
    )
    expect(seen.value).toBe(0)
    const written = transact(gateway.environment, request('x'), (tx) =>
      tx.query('payroll', insertRun, [otherTenant, run, 'x', 1]),
    )
    await expect(written).rejects.toMatchObject({ code: 'statement_failed', detail: { sqlState: '42501' } })
  })

  test('the application role has no way to a setting or to a text that runs as SQL', async () => {
    const { Connection } = await import('../postgres/connection.ts')
    const app = await Connection.connect(shards.target(home, 'holdfast_app'), 5_000)
    try {
      const refused = [
        `select set_config('role', 'none', true)`,
        `select query_to_xml('select 1', true, true, '')`,
        `update pg_settings set setting = 'off' where name = 'synchronous_commit'`,
        `do $$ begin perform 1; end $$`,
        `select pg_notify('a', 'b')`,
      ]
      for (const sql of refused) await expect(app.query(sql), sql).rejects.toMatchObject({ sqlState: '42501' })
    } finally {
      app.release()
    }
  })

  test('the guard holds whom row security does not: what runs as the owner needs an opening too', async () => {
    const { Connection } = await import('../postgres/connection.ts')
    await shards.admin(home).script(`create function as_owner(p_run text) returns void language sql security definer
      set search_path = public, pg_temp as $$ insert into runs (tenant, id, status, cents) values ('${tenant}', p_run, 'draft', 1) $$;
      alter function as_owner(text) owner to holdfast_owner`)
    const app = await Connection.connect(shards.target(home, 'holdfast_app'), 5_000)
    const run = newRun()
    try {
      await expect(app.query('select as_owner($1)', [run])).rejects.toMatchObject({ sqlState: 'HF005' })
    } finally {
      app.release()
    }
    await transact(gateway.environment, request(run), (tx) => tx.query('payroll', 'select as_owner($1)', [run]))
    expect(await shards.rows(home, 'select from runs where id = $1', [run])).toHaveLength(1)
  })

  test('reference data is read at home', async () => {
    const outcome = await transact(
      gateway.environment,
      request('x'),
      async (tx) => (await tx.query<{ rate: number }>('tax', 'select rate from tax')).rows,
    )
    expect(outcome.value).toEqual([{ rate: 24 }])
    expect(outcome.shards.map(({ shard }) => shard)).toEqual([home])
  })
})

describe('a transaction of several shards', () => {
  test('commits on both, and settles the branch after the reply', async () => {
    const run = newRun()
    const outcome = await transact(gateway.environment, request(run), async (tx) => {
      await tx.query('payroll', insertRun, [tenant, run, 'approved', 10])
      tx.batch('treasury', [[insertHold, [tenant, run, 10], { rows: 1 }]])
    })
    expect(outcome.shards).toMatchObject([
      { shard: home, role: 'home' },
      {
        shard: treasury,
        role: 'participant',
        pending: { transactionId: outcome.transactionId, timestamp: outcome.commitTimestamp },
      },
    ])
    await gateway.environment.background.drain()
    expect(await shards.prepared(treasury)).toEqual([])
    expect(await shards.rows(treasury, 'select cents::int from holds where run = $1', [run])).toEqual([{ cents: 10 }])
    const [branch] = await shards.rows<{ p: string; c: string }>(
      treasury,
      `select b.prepare_timestamp::text as p, d.commit_timestamp::text as c from holdfast.branch b
       join holdfast.decision d using (transaction_id) where b.transaction_id = $1`,
      [outcome.transactionId],
    )
    expect(BigInt(branch?.p ?? 0)).toBeLessThan(outcome.commitTimestamp)
    expect(BigInt(branch?.c ?? 0)).toBe(outcome.commitTimestamp)
    const [record] = await shards.rows(
      home,
      'select outcome, participants from holdfast.transaction_record where transaction_id = $1',
      [outcome.transactionId],
    )
    expect(record).toEqual({ outcome: 'COMMITTED', participants: [treasury] })
  })

  test('reads a far shard when it is awaited, and rolls everything back together', async () => {
    const run = newRun()
    const attempt = transact(gateway.environment, request(run), async (tx) => {
      const { rows } = await tx.query('treasury', 'select count(*)::int as n from holds')
      expect(rows).toHaveLength(1)
      await tx.query('payroll', insertRun, [tenant, run, 'approved', 10])
      await tx.query('treasury', insertHold, [tenant, run, 5_000])
    })
    await expect(attempt).rejects.toMatchObject({ code: 'constraint_violated', detail: { shard: treasury } })
    await gateway.environment.background.drain()
    expect(await shards.rows(home, 'select from runs where id = $1', [run])).toEqual([])
    expect(await shards.prepared(treasury)).toEqual([])
  })

  test('HZ-P2: a batch that fails makes the prepare answer ROLLBACK, which is a no', async () => {
    const run = newRun()
    const attempt = transact(gateway.environment, request(run), async (tx) => {
      await tx.query('payroll', insertRun, [tenant, run, 'approved', 10])
      tx.batch('treasury', [[insertHold, [tenant, run, 5_000]]])
    })
    await expect(attempt).rejects.toMatchObject({ code: 'constraint_violated', detail: { shard: treasury } })
    await gateway.environment.background.drain()
    expect(await shards.rows(home, 'select from runs where id = $1', [run])).toEqual([])
    expect(await shards.prepared(treasury)).toEqual([])
  })

  test('an unexpected number of rows is refused, at home and far away', async () => {
    const run = newRun()
    const change = 'update runs set status = $1 where id = $2'
    const atHome = transact(gateway.environment, request(run), async (tx) => {
      tx.batch('payroll', [[change, ['approved', run], { rows: 1 }]])
    })
    expect(await code(atHome)).toBe('transaction_refused')
    const far = transact(gateway.environment, request(run), async (tx) => {
      await tx.query('payroll', insertRun, [tenant, run, 'approved', 10])
      tx.batch('treasury', [['delete from holds where run = $1', [run], { rows: 1 }]])
    })
    await expect(far).rejects.toMatchObject({ code: 'transaction_refused', detail: { rows: 0, expected: 1 } })
    await gateway.environment.background.drain()
    expect(await shards.rows(home, 'select from runs where id = $1', [run])).toEqual([])
    expect(await shards.prepared(treasury)).toEqual([])
  })

  test('a value that cannot be sent stops everything before anything is sent', async () => {
    const run = newRun()
    const circular: Record<string, unknown> = {}
    circular['self'] = circular
    const attempt = transact(gateway.environment, request(run), async (tx) => {
      await tx.query('payroll', insertRun, [tenant, run, 'approved', 10])
      tx.batch('treasury', [['select $1::jsonb', [circular]]])
    })
    expect(await code(attempt)).toBe('argument_invalid')
    expect(await shards.rows(home, 'select from runs where id = $1', [run])).toEqual([])
  })

  test('a tenant at home where its other domains are pinned has one shard', async () => {
    const run = newRun()
    const outcome = await transact(gateway.environment, request(run, { tenant: otherTenant }), async (tx) => {
      await tx.query('payroll', insertRun, [otherTenant, run, 'approved', 10])
      tx.batch('treasury', [[insertHold, [otherTenant, run, 10]]])
    })
    expect(outcome.shards.map(({ shard }) => shard)).toEqual([treasury])
  })

  test('holds its record at home when only another shard is written', async () => {
    const run = newRun()
    const outcome = await transact(gateway.environment, request(run), async (tx) => {
      tx.batch('treasury', [[insertHold, [tenant, run, 1]]])
    })
    await gateway.environment.background.drain()
    expect(
      await shards.rows(home, 'select placements from holdfast.commit_log where transaction_id = $1', [
        outcome.transactionId,
      ]),
    ).toEqual([{ placements: { payroll: 1 } }])
    expect(await shards.rows(treasury, 'select from holds where run = $1', [run])).toHaveLength(1)
  })

  test('HZ-X11: a shard of local durability takes no part, as participant or as home', async () => {
    const asParticipant = transact(gateway.environment, request('x'), async (tx) => {
      tx.batch('scratch', [['insert into notes values ($1, $2)', [tenant, 'x']]])
    })
    expect(await code(asParticipant)).toBe('durability_insufficient')
    const asHome = transact(gateway.environment, request('x', { tenant: localTenant }), async (tx) => {
      tx.batch('treasury', [[insertHold, [localTenant, 'x', 1]]])
    })
    expect(await code(asHome)).toBe('durability_insufficient')
    const alone = await transact(gateway.environment, request('x', { tenant: localTenant }), async (tx) => {
      await tx.query('scratch', 'insert into notes values ($1, $2)', [localTenant, 'x'])
    })
    expect(alone.shards.map(({ shard }) => shard)).toEqual([scratch])
  })
})
