import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { configBelow } from '../../examples/payledger/demo/config.ts'
import { approveRun, createRun, readRun } from '../../examples/payledger/payledger.ts'
import { HoldfastError, isHoldfastError } from '../../src/base/errors.ts'
import type { FleetConfigInput } from '../../src/fleet/config.ts'
import { openFleet } from '../../src/fleet/fleet.ts'
import type { Gateway } from '../../src/fleet/gateway.ts'
import { Sessions } from '../../src/fleet/sessions.ts'
import { TokenRing } from '../../src/fleet/token-ring.ts'
import type { Connection } from '../../src/postgres/connection.ts'
import { emptyFrontier } from '../../src/session/frontier.ts'
import { transact } from '../../src/transaction/transaction.ts'
import { sqlState } from '../../src/postgres/sqlstate.ts'
import { leftBehind } from '../../examples/payledger/demo/leftovers.ts'
import { eventually } from '../support/eventually.ts'
import { seedTenant, temporaryFolder, TestFleet } from '../support/fleet.ts'
import { rm } from 'node:fs/promises'

/** Business actions through a gateway: done once, or refused with the reason and nothing written. */

const tenant = 'globex-eu'
const actor = 'manager@globex-eu.example'
const action = { tenant, action: 'payroll.draft', subject: 'misplaced', actor }
const abroad = 'us-east/treasury'
const clicks = 50

let fleet: TestFleet
let gateway: Gateway

beforeAll(async () => {
  fleet = await TestFleet.open()
  gateway = await fleet.gateway('eu-west')
  await seedTenant(gateway, tenant)
})

afterAll(() => fleet?.close())

const insertRun = `insert into payroll_runs (tenant, id, status, total_cents) values ($1, $2, 'draft', 1)`

/** Everything that a refused request could have left, on every shard. */
async function written(): Promise<unknown> {
  const count = `select (select count(*) from holdfast.commit_log) as commits, (select count(*) from payroll_runs) as runs,
    (select count(*) from holdfast.branch) as branches, (select count(*) from holdfast.idempotency) as keys,
    (select count(*) from pg_prepared_xacts) as prepared`
  return Promise.all([...fleet.config.shards.keys()].map((shard) => fleet.ask(shard, count)))
}

/** Runs what has to fail with a code, and holds that it wrote nothing. */
async function refused(code: string, attempt: () => Promise<unknown>): Promise<Error> {
  const before = await written()
  const error = await attempt().then(
    () => undefined,
    (reason: unknown) => reason,
  )
  expect(error).toMatchObject({ name: 'HoldfastError', code })
  expect(await written()).toEqual(before)
  if (!isHoldfastError(error)) throw new Error('expected a HoldfastError')
  return error
}

describe('an approval', () => {
  const draft = (run: string) => createRun(gateway, { tenant, run, actor, department: 'hq' })

  const holdsOf = async (run: string) => {
    // The treasury learns of a decision behind the answer.
    await eventually(async () => (await fleet.prepared()).length === 0)
    return fleet.ask<{ reserved_in: string }>(
      abroad,
      'select reserved_in from public.treasury_holds where tenant = $1 and run_id = $2',
      [tenant, run],
    )
  }

  const commitsOf = (run: string) =>
    fleet.ask<{ transaction_id: string }>(
      'eu-west/payroll',
      `select transaction_id from holdfast.commit_log where tenant = $1 and subject = $2 and action = 'payroll.approve'`,
      [tenant, run],
    )

  test('one key: fifty clients approve a run once, with one hold, and get fifty equal answers', async () => {
    await draft('one-key')
    const answers = await Promise.all(
      Array.from({ length: clicks }, () => approveRun(gateway, { tenant, run: 'one-key', actor, idempotencyKey: 'k' })),
    )
    const [first] = answers
    const told = answers.map(({ transactionId, commitTimestamp, value }) => ({ transactionId, commitTimestamp, value }))
    expect(told).toEqual(answers.map(() => told[0]))
    expect(answers.filter(({ replayed }) => !replayed)).toHaveLength(1)
    expect(await commitsOf('one-key')).toEqual([{ transaction_id: first?.transactionId }])
    expect(await holdsOf('one-key')).toEqual([{ reserved_in: first?.transactionId }])
  })

  test('fifty keys: one client approves the run, and the others are told who did', async () => {
    await draft('fifty-keys')
    const ends = await Promise.allSettled(
      Array.from({ length: clicks }, (_, click) =>
        approveRun(gateway, { tenant, run: 'fifty-keys', actor, idempotencyKey: `k${click}` }),
      ),
    )
    const approved = ends.flatMap((end) => (end.status === 'fulfilled' ? [end.value] : []))
    const refused = ends.flatMap((end) => (end.status === 'rejected' ? [end.reason as unknown] : []))
    expect(approved).toHaveLength(1)
    expect(refused).toHaveLength(clicks - 1)
    for (const error of refused) {
      expect(error).toBeInstanceOf(HoldfastError)
      expect(error).toMatchObject({
        code: 'transaction_refused',
        message: `run fifty-keys was approved before, by ${actor}`,
        detail: { approvedIn: approved[0]?.transactionId },
      })
    }
    expect(await commitsOf('fifty-keys')).toHaveLength(1)
    expect(await holdsOf('fifty-keys')).toEqual([{ reserved_in: approved[0]?.transactionId }])
  })

  test('one key for two requests: the second is a conflict, and nothing of it is written', async () => {
    await draft('first')
    await draft('second')
    await approveRun(gateway, { tenant, run: 'first', actor, idempotencyKey: 'reused' })
    await expect(approveRun(gateway, { tenant, run: 'second', actor, idempotencyKey: 'reused' })).rejects.toMatchObject(
      {
        code: 'idempotency_conflict',
      },
    )
    expect(await holdsOf('second')).toEqual([])
  })

  test('both or neither: an account that does not cover the hold leaves the run a draft', async () => {
    await draft('too-dear')
    await fleet.ask('us-east/treasury', 'update public.treasury_accounts set balance_cents = reserved_cents')
    await expect(approveRun(gateway, { tenant, run: 'too-dear', actor })).rejects.toMatchObject({
      code: 'constraint_violated',
    })
    expect(await holdsOf('too-dear')).toEqual([])
    const runs = await fleet.ask('eu-west/payroll', 'select status from public.payroll_runs where id = $1', [
      'too-dear',
    ])
    expect(runs).toEqual([{ status: 'draft' }])
  })
})

describe('a write for an EU tenant, sent to the US shard', () => {
  test('by a statement for the wrong domain: refused where the data is, with the reason', async () => {
    const error = await refused('placement_denied', () =>
      gateway.transact(action, (tx) => tx.query('treasury', insertRun, [tenant, 'misplaced'])),
    )
    expect(error.message).toBe(
      'domain payroll of tenant globex-eu is placed on eu-west/payroll, not here on us-east/treasury',
    )
  })

  test('by a gateway whose directory is of before a move: refused by the shard, then written where it belongs', async () => {
    const place = (shard: string, version: number) =>
      Promise.all(
        [...fleet.config.shards.keys()].map((at) =>
          fleet.ask(
            at,
            `update holdfast.placement set shard = $1, version = $2 where tenant = $3 and domain = 'payroll'`,
            [shard, version, tenant],
          ),
        ),
      )
    await place(abroad, 2)
    const stale = await fleet.gateway('eu-west', { services: false })
    expect(stale.parts.directory.current().resolve(tenant, 'payroll').shard).toBe(abroad)
    await place('eu-west/payroll', 3)

    const known = stale.parts.directory.current()
    const neverLearns = { current: () => known, refresh: () => Promise.resolve(known) }
    const error = await refused('placement_denied', () =>
      transact({ ...stale.parts.environment, directory: neverLearns }, action, (tx) =>
        tx.query('payroll', insertRun, [tenant, 'stale']),
      ),
    )
    expect(error.message).toContain('is placed on eu-west/payroll, not here on us-east/treasury')

    const { shards } = await stale.transact(action, (tx) => tx.query('payroll', insertRun, [tenant, 'learnt']))
    expect(shards).toEqual(['eu-west/payroll'])
  })

  describe('through a raw connection of the application role', () => {
    let raw: Connection

    beforeAll(async () => {
      raw = await fleet.connect(abroad, 'holdfast_app')
    })

    afterAll(() => raw?.release())

    /** What the insert gives behind these statements, in one transaction. */
    const attempt = async (...before: string[]): Promise<unknown> => {
      const counted = await written()
      await raw.query('begin')
      try {
        for (const sql of before) await raw.query(sql)
        return await raw.query(insertRun, [tenant, 'forged']).then(
          () => 'written',
          (error: unknown) => error,
        )
      } finally {
        await raw.query('rollback')
        expect(await written()).toEqual(counted)
      }
    }
    /** What an opening would set, as anybody may. */
    const forged = Object.entries({
      tenant,
      transaction: '01890000-0000-7000-8000-000000000000',
      placements: '{"payroll": 1, "treasury": 1}',
    }).map(([name, value]) => `set local holdfast.${name} = '${value}'`)

    test('without an opening', async () => {
      expect(await attempt()).toMatchObject({
        sqlState: sqlState.notOpened,
        message: expect.stringContaining('no opened transaction') as unknown,
      })
    })

    test('with settings of its own', async () => {
      expect(await attempt(...forged)).toMatchObject({ sqlState: sqlState.notOpened })
    })

    test('as who is bound: nobody but the gateway becomes that', async () => {
      await expect(raw.query('set role holdfast_bound')).rejects.toMatchObject({ sqlState: '42501' })
    })

    test('and it sees no row of any tenant', async () => {
      await raw.query('begin')
      for (const sql of forged) await raw.query(sql)
      expect((await raw.query('select from treasury_accounts')).rowCount).toBe(0)
      await raw.query('rollback')
    })
  })
})

describe('bad input gets its code, and nothing is written', () => {
  const nothing = () => Promise.resolve(null)

  test('an unknown tenant', async () => {
    await refused('unknown_tenant', () => gateway.transact({ ...action, tenant: 'nobody' }, nothing))
    await refused('unknown_tenant', () => readRun(gateway, { tenant: 'nobody', run: 'r' }))
  })

  test('an unknown domain', async () => {
    await refused('unknown_domain', () => gateway.transact(action, (tx) => tx.query('pensions', 'select 1')))
    await refused('unknown_domain', () => gateway.read({ tenant }, (read) => read.query('pensions', 'select 1')))
  })

  test('a malformed, a tampered and a foreign token', async () => {
    const { session } = await createRun(gateway, { tenant, run: 'for-its-token', actor, department: 'hq' })
    const withToken = (token: string) => () => gateway.transact({ ...action, session: token }, nothing)
    await refused('token_malformed', withToken('not a token'))
    await refused('token_malformed', withToken(session.slice(0, 20)))
    const at = Math.floor(session.length / 2)
    const tampered = session.slice(0, at) + (session[at] === 'A' ? 'B' : 'A') + session.slice(at + 1)
    await refused('token_forged', withToken(tampered))
    await refused('token_foreign', () => gateway.transact({ ...action, tenant: 'acme-de', session }, nothing))
    const { keys, topology, clock, config } = gateway.parts
    const elsewhere = new Sessions({
      fleet: 'another',
      ring: await TokenRing.open(async () => keys.tokenKeys, clock),
      topology,
      clock,
      maxClockOffsetMs: config.maxClockOffsetMs,
    })
    await refused('token_foreign', withToken(await elsewhere.seal(emptyFrontier, tenant)))
    for (const token of ['not a token', tampered]) {
      const code = token === tampered ? 'token_forged' : 'token_malformed'
      await refused(code, () => readRun(gateway, { tenant, run: 'r', session: token }))
    }
  })

  test('a statement that controls its transaction or its role, and two in one', async () => {
    const send = (sql: string) => () => gateway.transact(action, (tx) => tx.query('payroll', sql))
    await refused('statement_refused', send('commit'))
    await refused('statement_refused', send('set role holdfast_admin'))
    await refused('statement_refused', send('select 1; commit'))
  })
})

describe('a configuration that cannot stand starts nothing', () => {
  const cases: [string, (config: FleetConfigInput) => FleetConfigInput, RegExp][] = [
    [
      'a replica outside its jurisdiction',
      (config) => ({
        ...config,
        shards: { ...config.shards, 'eu-west/payroll': { durability: 'quorum', followers: ['us-east', 'eu-central'] } },
      }),
      /us-east/,
    ],
    ['an unknown key', (config) => ({ ...config, replicas: 3 }) as FleetConfigInput, /replicas/],
  ]

  test.each(cases)('%s', async (_, adapt, reason) => {
    const root = await temporaryFolder()
    try {
      const config = adapt(await configBelow(root))
      const opened = openFleet({ config })
      await expect(opened).rejects.toMatchObject({ name: 'HoldfastError', code: 'config_invalid' })
      await expect(opened).rejects.toThrow(reason)
      expect(await leftBehind(root)).toEqual([root])
    } finally {
      await rm(root, { recursive: true, force: true })
    }
  })
})
