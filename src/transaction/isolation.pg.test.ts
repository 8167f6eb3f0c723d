import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { approve, gate, gatewayOf, insertHold, insertRun, newRun, request } from '../../test/support/approval.ts'
import { DatabaseShards, home, tenant, treasury } from '../../test/support/database-shards.ts'
import { HoldfastError } from '../base/errors.ts'
import type { TransactionEnvironment } from './environment.ts'
import type { Isolation, Tx } from './transaction.ts'
import { transact } from './transaction.ts'

/**
 * What each isolation level promises, on one shard and over two: the table of `docs/protocols/global-commit.md`, each of its
 * anomalies shown or shown absent. Names as in Berenson et al., A Critique of ANSI SQL Isolation Levels (1995).
 */
let shards: DatabaseShards
let gateway: TransactionEnvironment
let run: string

beforeAll(async () => {
  shards = await DatabaseShards.open()
  gateway = await gatewayOf(shards)
})

afterAll(async () => {
  await shards.close()
})

/** A run at home and a hold at the treasury, of 10 cents each. */
beforeEach(async () => {
  run = newRun()
  await shards.rows(home, insertRun, [tenant, run])
  await shards.rows(treasury, insertHold, [tenant, run])
})

const readHold = 'select cents::int as cents from holds where run = $1'
const readRun = 'select cents::int as cents from runs where id = $1'
const setHold = 'update holds set cents = $2 where run = $1'
const setRun = 'update runs set cents = $2 where id = $1'

async function centsOf(tx: Tx, domain: 'payroll' | 'treasury', lock = ''): Promise<number> {
  const { rows } = await tx.query<{ cents: number }>(domain, (domain === 'payroll' ? readRun : readHold) + lock, [run])
  return rows[0]?.cents ?? 0
}

async function stored(): Promise<{ run: number | undefined; hold: number | undefined }> {
  const [atHome] = await shards.rows<{ cents: number }>(home, readRun, [run])
  const [there] = await shards.rows<{ cents: number }>(treasury, readHold, [run])
  return { run: atHome?.cents, hold: there?.cents }
}

/** Resolves for both once two have come; nobody who comes later waits. */
function meeting(): () => Promise<void> {
  let waiting = 0
  let meet = () => {}
  const met = new Promise<void>((resolve) => (meet = resolve))
  return async () => {
    waiting += 1
    if (waiting === 2) meet()
    if (waiting <= 2) await met
  }
}

type Shown = 'shown' | 'absent'
const atLevels = (...shown: readonly [Shown, Shown, Shown]): [Isolation, Shown][] => [
  ['read committed', shown[0]],
  ['repeatable read', shown[1]],
  ['serializable', shown[2]],
]

describe('on one shard, far from home', () => {
  test.each(atLevels('absent', 'absent', 'absent'))('P1, dirty read, under %s: %s', async (isolation) => {
    const stop = gate('global record inserted')
    const slow = await gatewayOf(shards, { onStep: stop.onStep })
    const writing = transact(slow, request(run), async (tx) => tx.batch('treasury', [[setHold, [run, 11]]]))
    await stop.reached
    const { value } = await transact(gateway, request(run, { isolation }), (tx) => centsOf(tx, 'treasury'))
    stop.release()
    await writing
    await slow.background.drain()
    expect(value).toBe(10)
  })

  test.each(atLevels('shown', 'absent', 'absent'))('P2, fuzzy read, under %s: %s', async (isolation, shown) => {
    const { value } = await transact(gateway, request(run, { isolation }), async (tx) => {
      const first = await centsOf(tx, 'treasury')
      await shards.rows(treasury, setHold, [run, 11])
      return [first, await centsOf(tx, 'treasury')]
    })
    expect(value).toEqual([10, shown === 'shown' ? 11 : 10])
  })

  test.each(atLevels('shown', 'absent', 'absent'))('P4, lost update, under %s: %s', async (isolation, shown) => {
    let attempts = 0
    await transact(gateway, request(run, { isolation }), async (tx) => {
      attempts += 1
      const cents = await centsOf(tx, 'treasury')
      if (attempts === 1) await shards.rows(treasury, setHold, [run, cents + 5])
      await tx.query('treasury', setHold, [run, cents + 1])
    })
    await gateway.background.drain()
    // Where it is not lost, the one that comes second is refused, and run again.
    expect({ attempts, ...(await stored()) }).toMatchObject(
      shown === 'shown' ? { attempts: 1, hold: 11 } : { attempts: 2, hold: 16 },
    )
  })

  test.each(atLevels('shown', 'shown', 'absent'))('A5B, write skew, under %s: %s', async (isolation, shown) => {
    await shards.rows(treasury, insertHold, [tenant, `${run}-other`])
    const meet = meeting()
    const sum = 'select sum(cents)::int as cents from holds where run like $1'
    /** Takes ten from one of the two, as long as ten are left. */
    const take = (from: string) =>
      transact(gateway, request(run, { isolation }), async (tx) => {
        const { rows } = await tx.query<{ cents: number }>('treasury', sum, [`${run}%`])
        await meet()
        if ((rows[0]?.cents ?? 0) > 10) await tx.query('treasury', setHold, [from, 0])
      })
    await Promise.all([take(run), take(`${run}-other`)])
    await gateway.background.drain()
    const [left] = await shards.rows<{ cents: number }>(treasury, sum, [`${run}%`])
    expect(left?.cents).toBe(shown === 'shown' ? 0 : 10)
  })
})

describe('over two shards', () => {
  test.each(atLevels('absent', 'absent', 'absent'))('half of a commit, in the end, under %s: %s', async (isolation) => {
    const other = newRun()
    await transact(gateway, request(other, { isolation }), approve(other))
    const half = transact(gateway, request(run, { isolation }), async (tx) => {
      tx.batch('payroll', [[setRun, [run, 11]]])
      tx.batch('treasury', [[setHold, [run, 5_000]]])
    })
    await expect(half).rejects.toMatchObject({ code: 'constraint_violated' })
    await gateway.background.drain()
    expect(await stored()).toEqual({ run: 10, hold: 10 })
    expect(await shards.rows(treasury, readHold, [other])).toHaveLength(1)
  })

  /** Each shard has a snapshot of its own, from the first statement there. */
  test.each(atLevels('shown', 'shown', 'shown'))('A5A, read skew, under %s: %s', async (isolation) => {
    const { value } = await transact(gateway, request(run, { isolation }), async (tx) => {
      const atHome = await centsOf(tx, 'payroll')
      const other = await gatewayOf(shards)
      await transact(other, request(run), async (others) => {
        others.batch('payroll', [[setRun, [run, 20]]])
        others.batch('treasury', [[setHold, [run, 20]]])
      })
      await other.background.drain()
      return [atHome, await centsOf(tx, 'treasury')]
    })
    expect(value).toEqual([10, 20])
  })

  /** One reads here and writes there, the other the reverse; each stops when the other has. */
  async function skew(isolation: Isolation, lock: string): Promise<{ left: number; attempts: number }> {
    const environment = await gatewayOf(shards, { limits: { lockWithinMs: 300, serializationRetriesMax: 20 } })
    const meet = meeting()
    let attempts = 0
    const oneOf = (read: 'payroll' | 'treasury', write: 'payroll' | 'treasury') =>
      transact(environment, request(run, { isolation }), async (tx) => {
        attempts += 1
        const cents = await centsOf(tx, read, lock)
        await meet()
        if (cents === 10) await tx.query(write, write === 'payroll' ? setRun : setHold, [run, 1])
      })
    await Promise.all([oneOf('treasury', 'payroll'), oneOf('payroll', 'treasury')])
    await environment.background.drain()
    const { run: atHome, hold } = await stored()
    return { left: [atHome, hold].filter((cents) => cents === 10).length, attempts }
  }

  test.each(atLevels('shown', 'shown', 'shown'))('A5B, write skew, under %s: %s', async (isolation) => {
    expect(await skew(isolation, '')).toEqual({ left: 0, attempts: 2 })
  })

  test.each(atLevels('absent', 'absent', 'absent'))(
    'A5B, write skew of those who lock what they read, under %s: %s',
    async (isolation) => {
      const { left, attempts } = await skew(isolation, ' for share')
      expect(left).toBe(1)
      expect(attempts).toBeGreaterThan(2)
    },
  )
})

test('T8: what is refused every time is run six times, with five pauses of chance below a bound that doubles', async () => {
  const pauses: number[] = []
  const sleep = async (ms: number) => void pauses.push(ms)
  const refusal = new HoldfastError('serialization_failure', 'as ever')
  let attempts = 0
  const outcome = transact({ ...gateway, clock: { ...gateway.clock, sleep } }, request(run), async () => {
    attempts += 1
    throw refusal
  })
  await expect(outcome).rejects.toBe(refusal)
  expect(attempts).toBe(6)
  expect(pauses).toHaveLength(5)
  for (const [index, ms] of pauses.entries()) {
    expect(ms).toBeGreaterThanOrEqual(0)
    expect(ms).toBeLessThanOrEqual(10 * 2 ** index)
  }
})
