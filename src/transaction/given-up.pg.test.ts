import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { acknowledgedBy } from '../../test/support/acknowledging-follower.ts'
import { insertRun, newRun, request } from '../../test/support/approval.ts'
import { home, tenant } from '../../test/support/database-shards.ts'
import { eventually } from '../../test/support/eventually.ts'
import { missing, quick, WaitingShards } from '../../test/support/waiting-shards.ts'
import { systemClock } from '../base/clock.ts'
import { waitingMax } from '../postgres/given-up.ts'
import { poolLimitsDefault } from '../postgres/pools.ts'
import { primaryOf, type TransactionEnvironment } from './environment.ts'
import { listInDoubt } from './in-doubt.ts'
import { transact } from './transaction.ts'

/** What is given up while it waits for followers waits on, and no gateway may leave so much of it that a server is full. */
let waiting: WaitingShards

beforeAll(async () => {
  waiting = await WaitingShards.open()
})

afterAll(() => waiting?.close())

afterEach(async () => {
  await waiting.followers(acknowledgedBy)
  await waiting.shards.closeGateways()
})

const atOnce = 8

function record(environment: TransactionEnvironment): Promise<unknown> {
  const run = newRun()
  return transact(environment, request(run), (tx) => tx.query('payroll', insertRun, [tenant, run]))
}

/** How many at once ended, and with which code. */
async function recordMany(environment: TransactionEnvironment): Promise<string[]> {
  const ends = await Promise.allSettled(Array.from({ length: atOnce }, () => record(environment)))
  return ends.map((end) => (end.status === 'fulfilled' ? 'committed' : String((end.reason as { code: string }).code)))
}

/** Commits until none is sent any more. */
async function fill(environment: TransactionEnvironment): Promise<void> {
  await eventually(async () => {
    const ends = await recordMany(environment)
    expect(ends).not.toContain('committed')
    return ends.every((code) => code === 'node_unavailable')
  })
}

describe('while the followers of a shard are away', () => {
  test('HZ-S3: a gateway leaves a bounded number of backends behind, and then refuses before it sends', async () => {
    const environment = await waiting.gateway({ limits: quick })
    await waiting.followers(missing)
    await fill(environment)
    const left = await waiting.waiters()
    expect(left).toBeGreaterThanOrEqual(waitingMax)
    // What was on its way together when the last of them was seen.
    expect(left).toBeLessThanOrEqual(waitingMax + atOnce + poolLimitsDefault.serviceConnectionsMax)
    await expect(record(environment)).rejects.toMatchObject({
      code: 'node_unavailable',
      retry: 'safe',
      message: expect.stringMatching(
        /takes no commit: \d+ that were given up here wait for its followers still/,
      ) as string,
    })
    for (let round = 0; round < 5; round++) await recordMany(environment)
    await expect(environment.barriers.pass(home, primaryOf(environment, home).id)).rejects.toMatchObject({
      code: 'node_unavailable',
    })
    expect(await waiting.waiters()).toBeLessThanOrEqual(left)
  })

  test('HZ-S3: nor does a crowd in front of the look for them keep the bound from holding', async () => {
    const environment = await waiting.gateway({ limits: quick })
    await waiting.followers(missing)
    const { serviceConnectionsMax } = poolLimitsDefault
    let isOver = false
    // Refusals are journalled, and each journal entry waits for followers too: so many that there is always a queue.
    const refuse = async () => {
      while (!isOver) {
        const refused = Array.from({ length: 3 * serviceConnectionsMax }, () =>
          transact(environment, request(newRun()), () => Promise.reject(new Error('refused'))).catch(() => undefined),
        )
        await Promise.all(refused)
        await systemClock.sleep(20)
      }
    }
    const refusing = refuse()
    try {
      await fill(environment)
      expect(await waiting.waiters()).toBeLessThanOrEqual(waitingMax + atOnce + 2 * serviceConnectionsMax)
    } finally {
      isOver = true
      await refusing
    }
  })

  test('what does not wait for them goes on', async () => {
    const environment = await waiting.gateway({ limits: quick })
    await waiting.followers(missing)
    await fill(environment)
    expect(await listInDoubt(environment, home)).toEqual([])
  })

  test('and when they are back commits are taken again', async () => {
    const environment = await waiting.gateway({ limits: quick })
    await waiting.followers(missing)
    await fill(environment)
    await waiting.followers(acknowledgedBy)
    await eventually(async () => (await recordMany(environment)).every((code) => code === 'committed'))
    expect(await waiting.waiters()).toBe(0)
  })
})
