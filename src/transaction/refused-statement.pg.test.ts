import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { both, codeOf, gatewayOf, insertHold, insertRun, newRun, request } from '../../test/support/approval.ts'
import { DatabaseShards, home, tenant, treasury } from '../../test/support/database-shards.ts'
import { newTimeOrderedUuid } from '../base/random.ts'
import type { StepName } from '../base/step.ts'
import type { TransactionId } from '../directory/topology.ts'
import type { TransactionEnvironment } from './environment.ts'
import type { TransactRequest, Tx } from './transaction.ts'
import { transact } from './transaction.ts'

/** A3: what is refused before it is sent leaves no part behind that could tell of it. */

let shards: DatabaseShards
let gateway: TransactionEnvironment

beforeAll(async () => {
  shards = await DatabaseShards.open()
  gateway = await gatewayOf(shards)
})

afterAll(async () => {
  await shards.close()
})

const circular: Record<string, unknown> = {}
circular['self'] = circular

/** Left behind by the function, without anybody who waits for it. */
const left: [string, (tx: Tx) => unknown, string, Partial<TransactRequest>?][] = [
  ['a domain that there is not', (tx) => tx.query('nowhere', 'select 1'), 'unknown_domain'],
  ['a text that is refused', (tx) => tx.query('payroll', 'commit'), 'statement_refused'],
  ['the same of a query builder', (tx) => tx.client('treasury').query({ text: 'begin' }), 'statement_refused'],
  ['a value without a form', (tx) => tx.query('payroll', 'select $1::jsonb', [circular]), 'argument_invalid'],
  ['a shard that takes no part', (tx) => tx.query('scratch', 'select 1'), 'durability_insufficient'],
  [
    'a shard that has lost what the caller has seen there',
    (tx) => tx.query('payroll', 'select 1'),
    'write_lost',
    { pending: [{ shard: home, transactionId: newTimeOrderedUuid() as TransactionId }] },
  ],
]

describe('A3: a statement that nobody waits for, and that is refused before it is sent, dooms the attempt:', () => {
  test.each(left)('%s', async (_, leave, code, more) => {
    const run = newRun()
    const attempt = transact(gateway, request(run, more), async (tx) => {
      void leave(tx)
      tx.batch('payroll', [[insertRun, [tenant, run]]])
    })
    expect(await codeOf(attempt)).toBe(code)
    await gateway.background.drain()
    expect(await both(shards, run)).toEqual([0, 0])
  })

  test('nor is a batch at home run where that is lost', async () => {
    const run = newRun()
    const pending = [{ shard: home, transactionId: newTimeOrderedUuid() as TransactionId }]
    const attempt = transact(gateway, request(run, { pending }), async (tx) => {
      tx.batch('payroll', [[insertRun, [tenant, run]]])
    })
    expect(await codeOf(attempt)).toBe('write_lost')
    await gateway.background.drain()
    expect(await both(shards, run)).toEqual([0, 0])
  })

  test('T8: but what failed before it at a server is what counts, and is run again', async () => {
    await shards.rows(
      home,
      `create function lose_the_race() returns void language plpgsql
       as $$ begin raise exception 'it lost' using errcode = '40001'; end $$`,
    )
    const run = newRun()
    let runs = 0
    await transact(gateway, request(run), async (tx) => {
      runs += 1
      if (runs > 1) return tx.query('payroll', insertRun, [tenant, run])
      await tx.query('payroll', 'select lose_the_race()').catch(() => undefined)
      return tx.query('nowhere', 'select 1')
    })
    expect(runs).toBe(2)
    await gateway.background.drain()
    expect(await both(shards, run)).toEqual([1, 0])
  })

  test('a participant that is fenced', async () => {
    const run = newRun()
    shards.replaceShard(treasury, { state: 'fenced' })
    try {
      const attempt = transact(gateway, request(run), async (tx) => {
        void tx.query('treasury', insertHold, [tenant, run])
        await tx.query('payroll', insertRun, [tenant, run])
      })
      expect(await codeOf(attempt)).toBe('shard_fenced')
    } finally {
      shards.replaceShard(treasury, { state: 'open' })
    }
    await gateway.background.drain()
    expect(await both(shards, run)).toEqual([0, 0])
  })

  test('T8: a participant that is fenced no more, once it is looked for again', async () => {
    const run = newRun()
    shards.replaceShard(treasury, { state: 'fenced' })
    const current = () => shards.topology.current()
    const refresh = async () => {
      shards.replaceShard(treasury, { state: 'open' })
      return current()
    }
    const environment = await gatewayOf(shards, { topology: { current, refresh } })
    await transact(environment, request(run), async (tx) => {
      void tx.query('treasury', insertHold, [tenant, run])
      await tx.query('payroll', insertRun, [tenant, run])
    })
    await environment.background.drain()
    expect(await both(shards, run)).toEqual([1, 1])
  })

  test('one that was to follow another that was left behind', async () => {
    const run = newRun()
    const attempt = transact(gateway, request(run), async (tx) => {
      const first = tx.query('payroll', insertRun, [tenant, run])
      first.then(() => tx.query('treasury', insertHold, [tenant, run])).catch(() => undefined)
    })
    expect(await codeOf(attempt)).toBe('argument_invalid')
    await gateway.background.drain()
    expect(await both(shards, run)).toEqual([0, 0])
  })
})

describe('A3: a call that comes when the function has ended', () => {
  /** The outcome when the call comes at that step, and what was told in the background. */
  const calledAt = async (at: StepName, run: string) => {
    const told: unknown[] = []
    let late: Promise<unknown> | undefined
    let tx: Tx | undefined
    const environment = await gatewayOf(shards, {
      onStep: async (step) => {
        if (step === at) late ??= tx?.query('payroll', 'select 1')
      },
      onBackgroundFailure: (error) => void told.push(error),
    })
    const attempt = transact(environment, request(run), async (open) => {
      tx = open
      await open.query('payroll', insertRun, [tenant, run])
      await open.query('treasury', insertHold, [tenant, run])
    })
    const code = await codeOf(attempt)
    await environment.background.drain()
    await expect(late).rejects.toMatchObject({ code: 'argument_invalid' })
    return { code, told }
  }

  test.each<StepName>(['global prepare sent', 'global record inserted'])(
    'dooms it while the decision has not been sent: at %s',
    async (step) => {
      const run = newRun()
      expect(await calledAt(step, run)).toEqual({ code: 'argument_invalid', told: [] })
      expect(await both(shards, run)).toEqual([0, 0])
    },
  )

  test('is told in the background behind that, and changes nothing', async () => {
    const run = newRun()
    const { code, told } = await calledAt('global home commit sent', run)
    expect(code).toBe('fulfilled')
    expect(told).toMatchObject([{ message: expect.stringContaining('came when its commit had been sent') }])
    expect(await both(shards, run)).toEqual([1, 1])
  })
})

describe('A3: so does what its function swallows:', () => {
  const swallowed: [string, (tx: Tx) => unknown, string][] = [
    ['a statement', (tx) => tx.query('payroll', 'commit'), 'statement_refused'],
    ['a batch', (tx) => tx.batch('payroll', [['select 1'], ['commit']]), 'statement_refused'],
    ['an event', (tx) => tx.emit('', {}), 'argument_invalid'],
  ]
  const swallow = async (refused: () => unknown) => {
    try {
      await refused()
    } catch {
      // As a caller does that takes it for harmless.
    }
  }

  test.each(swallowed)('%s', async (_, refused, code) => {
    const run = newRun()
    const attempt = transact(gateway, request(run), async (tx) => {
      await swallow(() => refused(tx))
      await tx.query('payroll', insertRun, [tenant, run])
    })
    expect(await codeOf(attempt)).toBe(code)
    expect(await both(shards, run)).toEqual([0, 0])
  })

  test('a statement in a savepoint, which has nothing of it to take back', async () => {
    const run = newRun()
    const attempt = transact(gateway, request(run), async (tx) => {
      await tx.query('payroll', insertRun, [tenant, run])
      await tx.query('payroll', 'savepoint before')
      await swallow(() => tx.query('payroll', 'commit'))
      await tx.query('payroll', 'rollback to savepoint before')
    })
    expect(await codeOf(attempt)).toBe('statement_refused')
    expect(await both(shards, run)).toEqual([0, 0])
  })
})

test('a statement takes its values along as they are when it is asked for', async () => {
  const [awaited, batched] = [newRun(), newRun()]
  const insert = `insert into runs values ($1, $2, $3::jsonb ->> 'status' || convert_from($4, 'utf8'), 1)`
  const status: Record<string, unknown> = { status: 'draft' }
  const bytes = Buffer.from('!')
  await transact(gateway, request(awaited), async (tx) => {
    const asked = tx.query('payroll', insert, [tenant, awaited, status, bytes])
    tx.batch('payroll', [[insert, [tenant, batched, status, bytes]]])
    status['status'] = 10n
    bytes.fill(0)
    await asked
  })
  const rows = await shards.rows(home, 'select status from runs where id in ($1, $2)', [awaited, batched])
  expect(rows).toEqual([{ status: 'draft!' }, { status: 'draft!' }])
})
