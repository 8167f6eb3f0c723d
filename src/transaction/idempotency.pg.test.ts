import type { AddressInfo } from 'node:net'
import { createServer } from 'node:net'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { TestGateway } from '../../test/support/database-shards.ts'
import { DatabaseShards, home, tenant, treasury } from '../../test/support/database-shards.ts'
import { readAfter } from '../../test/support/reading-gateway.ts'
import { HoldfastError } from '../base/errors.ts'
import { newRandomUuid, newTimeOrderedUuid } from '../base/random.ts'
import { Connection } from '../postgres/connection.ts'
import { ConnectionPools, poolLimitsDefault } from '../postgres/pools.ts'
import type { TargetOf, TransactionEnvironment } from './environment.ts'
import { hashRequest } from './idempotency.ts'
import type { Committed, TransactRequest } from './transaction.ts'
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

const newName = () => newRandomUuid().slice(0, 12)
const request = (subject: string, key: string, more: Partial<TransactRequest> = {}): TransactRequest => ({
  tenant,
  action: 'payroll.approve',
  subject,
  actor: 'manager@globex.example',
  idempotencyKey: key,
  ...more,
})

function approve(on: TestGateway, run: string, key: string) {
  return transact(on.environment, request(run, key), async (tx) => {
    const { rowCount } = await tx.query(
      'payroll',
      "update runs set status = 'approved' where id = $1 and status = 'draft'",
      [run],
    )
    if (rowCount !== 1) throw new HoldfastError('transaction_refused', `run ${run} is not a draft`)
    tx.batch('treasury', [['insert into holds (tenant, run, cents) values ($1, $2, 10)', [tenant, run], { rows: 1 }]])
    tx.emit('payroll.approved', { run })
    return { run, cents: 10 }
  })
}

const draft = (run: string) =>
  shards.rows(home, "insert into runs (tenant, id, status, cents) values ($1, $2, 'draft', 10)", [tenant, run])
const holdsOf = (run: string) => shards.rows(treasury, 'select from holds where run = $1', [run])

const pendingOf = ({ shards: touched }: Committed<unknown>) => touched.map(({ shard, pending }) => [shard, pending])
const readHolds = (told: Committed<unknown>, run: string) =>
  readAfter(gateway.environment, told, { tenant, domain: 'treasury' }, 'select from holds where run = $1', [run])

function reachingTreasuryAt(environment: TransactionEnvironment, port: number): TransactionEnvironment {
  const targetOf: TargetOf = (node) => ({
    ...environment.targetOf(node),
    ...(node.shard === treasury ? { host: '127.0.0.1', port } : {}),
  })
  return { ...environment, targetOf }
}

describe('an idempotency key', () => {
  test('T7: answers a second use with the first outcome, its token and what is pending', async () => {
    const run = newName()
    await draft(run)
    const first = await approve(gateway, run, `key-${run}`)
    const second = await approve(gateway, run, `key-${run}`)
    expect({ ...second, shards: [], replayed: false }).toEqual({ ...first, shards: [] })
    expect(second.replayed).toBe(true)
    expect(second.shards).toMatchObject([
      { shard: home, role: 'home', placementVersion: 1 },
      { shard: treasury, pending: { transactionId: first.transactionId, timestamp: first.commitTimestamp } },
    ])
    expect(second.shards[0]?.position).toBeGreaterThan(first.shards[0]?.position ?? 0n)
  })

  test('T7: tells the outcome while a participant is away; of the branch that nobody looked at, the next read there is told', async () => {
    const run = newName()
    await draft(run)
    const first = await approve(gateway, run, `key-${run}`)
    const { environment } = gateway
    const away = await approve({ ...gateway, environment: reachingTreasuryAt(environment, 1) }, run, `key-${run}`)
    expect(away).toEqual({ ...first, replayed: true, shards: away.shards })
    expect(pendingOf(away)).toEqual([
      [home, undefined],
      [treasury, undefined],
    ])
    // It is back, and has the branch.
    await environment.background.drain()
    const message = `the session was told of a write on shard ${treasury} that was not found there in epoch 1, and may be lost`
    await expect(readHolds(away, run)).rejects.toMatchObject({ code: 'history_changed', message })
    expect(await readHolds(await approve(gateway, run, `key-${run}`), run)).toHaveLength(1)
  })

  test('T7: does not wait for a participant that is silent', async () => {
    const run = newName()
    await draft(run)
    const first = await approve(gateway, run, `key-${run}`)
    const silent = createServer(() => undefined)
    await new Promise<void>((resolve) => silent.listen(0, '127.0.0.1', resolve))
    const pools = new ConnectionPools({ ...poolLimitsDefault, connectWithinMs: 30_000 })
    try {
      const { port } = silent.address() as AddressInfo
      const environment = reachingTreasuryAt({ ...gateway.environment, pools }, port)
      const beganMs = environment.clock.monotonicMs()
      const again = await approve({ ...gateway, environment }, run, `key-${run}`)
      expect(environment.clock.monotonicMs() - beganMs).toBeLessThan(15_000)
      expect(again).toMatchObject({ value: first.value, transactionId: first.transactionId, replayed: true })
    } finally {
      await pools.close()
      silent.close()
    }
  })

  test('HZ-T3, S11: names no branch as pending that the history of now does not have, and the next read there is told', async () => {
    const run = newName()
    await draft(run)
    const { transactionId } = await approve(gateway, run, `key-${run}`)
    await gateway.environment.background.drain()
    // As a promotion leaves it that lost the end of the log.
    await shards.rows(treasury, 'delete from holdfast.branch where transaction_id = $1', [transactionId])
    const again = await approve(gateway, run, `key-${run}`)
    expect(pendingOf(again)).toEqual([
      [home, undefined],
      [treasury, undefined],
    ])
    await expect(readHolds(again, run)).rejects.toMatchObject({ code: 'history_changed' })
  })

  test('T7: of fifty clients at once on two gateways approves once, and all get one answer', async () => {
    const run = newName()
    await draft(run)
    const other = await shards.gateway()
    const clicks = Array.from({ length: 50 }, (_, index) =>
      approve(index % 2 === 0 ? gateway : other, run, `key-${run}`),
    )
    const outcomes = await Promise.all(clicks)
    const [first] = outcomes
    for (const outcome of outcomes) {
      expect(outcome.value).toEqual(first?.value)
      expect(outcome.transactionId).toBe(first?.transactionId)
      expect(outcome.commitTimestamp).toBe(first?.commitTimestamp)
    }
    expect(outcomes.filter(({ replayed }) => !replayed)).toHaveLength(1)
    await other.close()
    await gateway.environment.background.drain()
    expect(await holdsOf(run)).toHaveLength(1)
    expect(await shards.rows(home, 'select from holdfast.commit_log where subject = $1', [run])).toHaveLength(1)
    expect(await shards.rows(home, `select from holdfast.outbox where payload ->> 'run' = $1`, [run])).toHaveLength(1)
  })

  test('fifty clients with keys of their own: one approves, the others are told why', async () => {
    const run = newName()
    await draft(run)
    const clicks = Array.from({ length: 50 }, (_, index) => approve(gateway, run, `key-${run}-${index}`))
    const ends = await Promise.allSettled(clicks)
    expect(ends.filter(({ status }) => status === 'fulfilled')).toHaveLength(1)
    for (const end of ends) {
      if (end.status === 'rejected')
        expect(end.reason).toMatchObject({ code: 'transaction_refused', message: `run ${run} is not a draft` })
    }
    await gateway.environment.background.drain()
    expect(await holdsOf(run)).toHaveLength(1)
  })

  test('T7: for another request is a conflict', async () => {
    const key = newName()
    await transact(gateway.environment, request('a', key), async () => 1)
    for (const change of [{ subject: 'b' }, { actor: 'someone' }, { request: { amount: 2 } }]) {
      const again = transact(gateway.environment, request('a', key, change), async () => 2)
      await expect(again).rejects.toMatchObject({ code: 'idempotency_conflict' })
    }
    const other = await transact(gateway.environment, request('b', key, { tenant: 'initech-us' }), async () => 3)
    expect(other).toMatchObject({ value: 3, replayed: false })
  })

  test('T7: whose first use a failover has lost after the opening read it is to be sent again', async () => {
    const [key, lost] = [newName(), newTimeOrderedUuid()]
    const asked = request('a', key)
    // As the old primary had it. Of the commit that stood beside it the new one has nothing.
    await shards.rows(
      home,
      'insert into holdfast.idempotency (tenant, key, request_hash, transaction_id) values ($1, $2, $3, $4)',
      [tenant, key, hashRequest(asked), lost],
    )
    await expect(transact(gateway.environment, asked, async () => 1)).rejects.toMatchObject({
      code: 'node_unavailable',
      retry: 'safe',
      detail: { key, transactionId: lost, shard: home },
    })
    await shards.rows(home, 'delete from holdfast.idempotency where key = $1', [key])
    expect(await transact(gateway.environment, asked, async () => 1)).toMatchObject({ value: 1, replayed: false })
  })

  test('is free again after a refusal', async () => {
    const key = newName()
    const refused = transact(gateway.environment, request('a', key), async () => {
      throw new HoldfastError('transaction_refused', 'not now')
    })
    await expect(refused).rejects.toMatchObject({ code: 'transaction_refused' })
    expect(await transact(gateway.environment, request('a', key), async () => 'now')).toMatchObject({
      value: 'now',
      replayed: false,
    })
  })

  test('A1: is claimed before another shard is touched, and its function does not go on when it was used', async () => {
    const key = newName()
    await transact(gateway.environment, request('a', key), async () => 'first')
    const went: string[] = []
    const again = await transact(gateway.environment, request('a', key), async (tx) => {
      for (const domain of ['treasury', 'payroll']) {
        await tx.query(domain, 'select 1').then(
          () => went.push(domain),
          () => undefined,
        )
      }
      return 'second'
    })
    expect(again).toMatchObject({ value: 'first', replayed: true })
    expect(went).toEqual([])
  })

  test('is found when nothing was awaited either', async () => {
    const key = newName()
    await transact(gateway.environment, request('a', key), async () => 'first')
    expect(await transact(gateway.environment, request('a', key), async () => 'second')).toMatchObject({
      value: 'first',
      replayed: true,
    })
  })

  test('is not claimed behind a BEGIN that failed: in autocommit the claim is refused', async () => {
    const direct = await Connection.connect(shards.target(home, 'holdfast_gateway'), 5_000)
    try {
      const claim = `select 1 from holdfast.claim('${tenant}', gen_random_uuid(), 'lonely', '\\x00')`
      const [begun, opened] = await direct.flight([{ text: 'begin isolation level nonsense' }, { text: claim }])
      expect(begun?.ok).toBe(false)
      expect(opened).toMatchObject({ ok: false, error: { sqlState: 'HF005' } })
      expect(await shards.rows(home, `select from holdfast.idempotency where key = 'lonely'`)).toEqual([])
    } finally {
      direct.release()
    }
  })
})
