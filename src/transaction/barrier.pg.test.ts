import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { acknowledgedBy } from '../../test/support/acknowledging-follower.ts'
import { home, scratch, treasury } from '../../test/support/database-shards.ts'
import { eventually } from '../../test/support/eventually.ts'
import { missing, nobody, quick, WaitingShards } from '../../test/support/waiting-shards.ts'
import { present } from '../base/assert.ts'
import type { NodeId, ShardName } from '../directory/topology.ts'
import type { TransactionEnvironment } from './environment.ts'
import { primaryOf } from './environment.ts'

let waiting: WaitingShards

beforeAll(async () => {
  waiting = await WaitingShards.open()
})

afterAll(() => waiting?.close())

beforeEach(() => waiting.followers(acknowledgedBy))
afterEach(() => waiting.shards.closeGateways())

const passBarrier = (environment: TransactionEnvironment, shard: ShardName) =>
  environment.barriers.pass(shard, primaryOf(environment, shard).id)

describe('a barrier', () => {
  test('B3: says nothing of what was read on a primary of before', async () => {
    const environment = await waiting.gateway({ limits: quick })
    await waiting.followers(acknowledgedBy)
    await expect(environment.barriers.pass(home, `${home}.of-before` as NodeId)).rejects.toMatchObject({
      code: 'node_unavailable',
      detail: { readOn: `${home}.of-before` },
    })
    await expect(passBarrier(environment, home)).resolves.toBeGreaterThan(0n)
  })

  test('B2: rejects when it is not acknowledged', async () => {
    const environment = await waiting.gateway({ limits: quick })
    await waiting.followers(missing)
    await expect(passBarrier(environment, home)).rejects.toMatchObject({ code: 'node_unavailable' })
    const cancelled = passBarrier(environment, treasury)
    cancelled.catch(() => undefined)
    await waiting.signalWaiter(treasury, 'pg_cancel_backend')
    await expect(cancelled).rejects.toMatchObject({ code: 'node_unavailable' })
  })

  test('B4, HZ-S5: rejects where it waits for nobody, also when that begins while it waits', async () => {
    const environment = await waiting.gateway({ limits: { ...quick, serviceWithinMs: 20_000 } })
    await waiting.followers(missing)
    const released = passBarrier(environment, home)
    released.catch(() => undefined)
    await eventually(async () => (await waiting.waiters()) === 1)
    await waiting.followers(nobody)
    await expect(released).rejects.toMatchObject({ code: 'node_unavailable' })
    await expect(passBarrier(environment, home)).rejects.toMatchObject({ code: 'node_unavailable' })
    const bound = await waiting.shards.rows(home, 'select holdfast.replicated_through()::text as through')
    expect(bound).toEqual([{ through: '0/0' }])
  })

  test('B4: rejects what waited for nobody because the checkpointer has not taken the names up yet', async () => {
    const environment = await waiting.gateway()
    await waiting.followers(nobody)
    await waiting.stopFollower()
    const [checkpointer] = await waiting.shards.rows<{ pid: number }>(
      home,
      `select pid from pg_stat_activity where backend_type = 'checkpointer'`,
    )
    const { pid } = present(checkpointer, 'a checkpointer')
    process.kill(pid, 'SIGSTOP')
    try {
      await waiting.beginFollowers(acknowledgedBy)
      await eventually(async () => {
        const [row] = await waiting.shards.rows<{ named: string }>(
          home,
          `select current_setting('synchronous_standby_names') as named`,
        )
        return row?.named === acknowledgedBy
      })
      await expect(passBarrier(environment, home)).rejects.toMatchObject({
        cause: { message: expect.stringContaining('enough followers have') as unknown },
      })
    } finally {
      process.kill(pid, 'SIGCONT')
      waiting.startFollower()
    }
    await waiting.followers(acknowledgedBy)
    await expect(passBarrier(environment, home)).resolves.toBeGreaterThan(0n)
  })

  test('B1: is shared by all who come while another is under way, and covers only what came before it', async () => {
    const environment = await waiting.gateway({ limits: { ...quick, serviceWithinMs: 20_000 } })
    const messages = async () =>
      Number(
        (await waiting.shards.rows<{ n: string }>(home, `select pg_current_wal_insert_lsn() - '0/0'::pg_lsn as n`))[0]
          ?.n,
      )
    await waiting.followers(missing)
    const first = passBarrier(environment, home)
    await eventually(async () => (await waiting.waiters()) === 1)
    const later = Array.from({ length: 20 }, () => passBarrier(environment, home))
    const before = await messages()
    // Those who came later have sent nothing yet: one wait, and no more log.
    expect(await waiting.waiters()).toBe(1)
    expect(await messages()).toBe(before)
    await waiting.followers(acknowledgedBy)
    const positions = await Promise.all([first, ...later])
    expect(new Set(positions.slice(1)).size).toBe(1)
    expect(positions[1]).toBeGreaterThan(positions[0] ?? 0n)
  })
})

test('B4: a barrier of a local shard passes alone, whoever is named on its server', async () => {
  const environment = await waiting.gateway()
  for (let count = 0; count < 100; count += 1) await passBarrier(environment, scratch)
})
