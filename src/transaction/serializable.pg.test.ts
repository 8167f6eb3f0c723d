import { afterAll, beforeAll, expect, test } from 'vitest'
import { gatewayOf, insertRun, newRun, request } from '../../test/support/approval.ts'
import { DatabaseShards, tenant, treasury } from '../../test/support/database-shards.ts'
import { numbersFrom } from '../../test/sim/commit-play.ts'
import type { MicroOperation, Operation } from '../../test/sim/history.ts'
import { checkListAppend, forbiddenUnder } from '../../test/sim/list-append.ts'
import { systemClock } from '../base/clock.ts'
import type { TransactionEnvironment } from './environment.ts'
import type { Tx } from './transaction.ts'
import { transact } from './transaction.ts'

/**
 * Q4 at large: lists at the treasury, appended to by global transactions and read by others that only read there, all of them
 * serializable. The history of that shard has no cycle of dependencies.
 */
let shards: DatabaseShards
let gateway: TransactionEnvironment

beforeAll(async () => {
  shards = await DatabaseShards.open()
  await shards.admin(treasury).script(`
    create table lists (tenant text not null, name text not null, items integer[] not null, primary key (tenant, name));
    call holdfast.govern('lists', 'treasury', 'regulated')`)
  for (const name of names) await shards.rows(treasury, "insert into lists values ($1, $2, '{}')", [tenant, name])
  gateway = await gatewayOf(shards, { limits: { serializationRetriesMax: 20 }, transactionConnectionsMax: 16 })
})

afterAll(async () => {
  await shards.close()
})

const names = ['a', 'b', 'c']
const clients = 8
const operationsEach = 25

test('Q4: who only reads sees an order that the writers had', async () => {
  const history: Operation[] = []
  let value = 0
  let readers = 0

  async function read(tx: Tx, key: string): Promise<MicroOperation> {
    const text = 'select items from lists where name = $1'
    const { rows } = await tx.query<{ items: number[] }>('treasury', text, [key])
    return { kind: 'read', key, values: rows[0]?.items ?? [] }
  }

  async function append(tx: Tx, key: string, item: number): Promise<MicroOperation> {
    const text = 'update lists set items = items || $2::integer where name = $1'
    await tx.query('treasury', text, [key, item])
    return { kind: 'append', key, value: item }
  }

  async function operate(client: number, next: () => number): Promise<void> {
    const key = names[next() % names.length] ?? ''
    const other = names[(names.indexOf(key) + 1 + (next() % (names.length - 1))) % names.length] ?? ''
    const isReader = next() % 2 === 0
    const pauseMs = next() % 60
    value += 1
    const item = value
    const invokedAt = systemClock.monotonicMs()
    const record = (outcome: Operation['outcome'], micro: readonly MicroOperation[]) =>
      history.push({ index: history.length, client, invokedAt, completedAt: systemClock.monotonicMs(), outcome, micro })
    try {
      const run = newRun()
      const done = await transact(gateway, request(run, { isolation: 'serializable' }), async (tx) => {
        const first = await read(tx, key)
        tx.batch('payroll', [[insertRun, [tenant, run]]])
        if (isReader) return [first, await read(tx, other)]
        // Time for another to commit in between.
        await systemClock.sleep(pauseMs)
        return [first, await append(tx, other, item)]
      })
      readers += done.shards.filter(({ role }) => role === 'reader').length
      record('committed', done.value)
    } catch {
      record('aborted', isReader ? [] : [{ kind: 'append', key: other, value: item }])
    }
  }

  const work = async (client: number) => {
    const next = numbersFrom(client)
    for (let turn = 0; turn < operationsEach; turn += 1) await operate(client, next)
  }
  await Promise.all(Array.from({ length: clients }, (_, client) => work(client)))
  await gateway.background.drain()
  const last = await shards.rows<{ name: string; items: number[] }>(treasury, 'select name, items from lists')
  const micro = last.map(({ name, items }) => ({ kind: 'read', key: name, values: items }) as const)
  history.push({
    index: history.length,
    client: -1,
    invokedAt: Number.POSITIVE_INFINITY,
    completedAt: Number.POSITIVE_INFINITY,
    outcome: 'committed',
    micro,
  })

  expect(readers).toBeGreaterThan(clients)
  // A reply comes before its branch is settled: neither sessions nor real time order what is seen.
  const isForbidden = (kind: string) => forbiddenUnder('serializable')(kind) && !/-(session|realtime)$/.test(kind)
  expect(checkListAppend(history).filter(({ kind }) => isForbidden(kind))).toEqual([])
}, 120_000)
