import { bind, stampOf } from '../../test/support/bind.ts'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { type FreshDatabase, freshDatabase } from '../../test/support/database.ts'
import { eventually } from '../../test/support/eventually.ts'
import { present } from '../base/assert.ts'
import type { Clock } from '../base/clock.ts'
import { systemClock } from '../base/clock.ts'
import { newRandomUuid, newTimeOrderedUuid } from '../base/random.ts'
import type { Epoch, TransactionId } from '../directory/topology.ts'
import { Connection } from '../postgres/connection.ts'
import { type ServerError } from '../postgres/failure.ts'
import { accepted } from '../postgres/statement.ts'
import { open as opening } from '../transaction/transaction-store.ts'
import { fenceShard } from './fencing.ts'

let database: FreshDatabase
let admin: Connection
const opened: Connection[] = []

async function connect(role: string): Promise<Connection> {
  const connection = await Connection.connect(database.target(role), 5_000)
  opened.push(connection)
  return connection
}

beforeEach(async () => {
  database = await freshDatabase()
  admin = await connect('holdfast_admin')
  await admin.query('call holdfast.found_shard($1, $2, $3, $4, $5)', [
    'test',
    'eu-west/payroll',
    'quorum',
    newRandomUuid(),
    500,
  ])
  await admin.script(`
    insert into holdfast.placement values ('globex-eu', 'payroll', 'eu-west/payroll', 1, 'null', 1);
    create table runs (tenant text not null, id text not null, primary key (tenant, id));
    call holdfast.govern('runs', 'payroll', 'regulated')`)
})

afterEach(async () => {
  for (const connection of opened.splice(0)) connection.release()
  await database.drop()
})

const options = { graceMs: 300, deadlineMs: 5_000, clock: systemClock }
const epoch = 2 as Epoch

async function open(gateway: Connection, transaction: string, isolation = 'read committed'): Promise<void> {
  await gateway.query(`begin isolation level ${isolation}`)
  await gateway.flight([bind('globex-eu', transaction)])
  await gateway.query('set local role holdfast_bound')
  await gateway.query("insert into runs values ('globex-eu', $1)", [transaction])
  await gateway.query('reset role')
}

const stamp = (gateway: Connection, transaction: string) =>
  gateway.flight([stampOf('globex-eu', transaction)]).then(([outcome]) => accepted(present(outcome, 'an answer')))

test('an opening and a stamp at the old epoch are refused from the fence on', async () => {
  const gateway = await connect('holdfast_gateway')
  const transaction = newTimeOrderedUuid()
  await open(gateway, transaction)
  await admin.query('select holdfast.fence($1)', [epoch])
  await expect(stamp(gateway, transaction)).rejects.toMatchObject({ sqlState: 'HF006' } satisfies Partial<ServerError>)
  const late = await connect('holdfast_gateway')
  await late.query('begin')
  const [refused] = await late.flight([
    opening({
      tenant: 'globex-eu',
      transactionId: newTimeOrderedUuid() as TransactionId,
      epoch: 1 as Epoch,
      placements: new Map(),
      key: null,
      requestHash: null,
      lockWithinMs: 1_000,
      runWithinMs: 1_000,
      isHome: true,
    }),
  ])
  expect(refused).toMatchObject({ ok: false, error: { sqlState: 'HF006' } })
})

test('HZ-F1: a transaction whose snapshot is older than the fence stamps, so the fence waits for its end', async () => {
  const gateway = await connect('holdfast_gateway')
  const transaction = newTimeOrderedUuid()
  await open(gateway, transaction, 'repeatable read')
  let fenced = false
  const fencing = fenceShard(admin, epoch, { ...options, graceMs: 60_000 }).then((result) => {
    fenced = true
    return result
  })
  const watcher = await connect('holdfast_admin')
  await eventually(async () => (await watcher.query('select epoch from holdfast.shard')).rows[0]?.['epoch'] === 2)
  // The check alone would not have stopped it: its snapshot still has the old epoch.
  await stamp(gateway, transaction)
  expect(fenced).toBe(false)
  await gateway.query('commit')
  await fencing
  expect((await watcher.query('select from holdfast.commit_log')).rowCount).toBe(1)
})

test('HZ-M1: a transaction that prepares while the fence waits is in the list of prepared ones', async () => {
  const gateway = await connect('holdfast_gateway')
  const transaction = newTimeOrderedUuid()
  await open(gateway, transaction, 'repeatable read')
  const fencing = fenceShard(admin, epoch, { ...options, graceMs: 60_000 })
  const watcher = await connect('holdfast_admin')
  await eventually(async () => (await watcher.query('select epoch from holdfast.shard')).rows[0]?.['epoch'] === 2)
  const gid = `hf_test_${transaction}`
  await gateway.query(`prepare transaction '${gid}'`)
  try {
    expect(await fencing).toEqual({ terminated: 0, prepared: [gid] })
  } finally {
    await gateway.query(`rollback prepared '${gid}'`)
  }
})

test('past the grace, what idles is terminated and the fence holds', async () => {
  const gateway = await connect('holdfast_gateway')
  await open(gateway, newTimeOrderedUuid())
  expect(await fenceShard(admin, epoch, options)).toEqual({ terminated: 1, prepared: [] })
  expect((await admin.query('select from runs')).rowCount).toBe(0)
})

test('a session that takes its time to end counts once', async () => {
  const gateway = await connect('holdfast_gateway')
  await open(gateway, newTimeOrderedUuid())
  const { rows } = await gateway.query<{ pid: number }>('select pg_backend_pid() as pid')
  const pid = present(rows[0], 'a backend').pid
  process.kill(pid, 'SIGSTOP')
  let looks = 0
  // It goes on once it was told to end several times.
  const clock: Clock = {
    ...systemClock,
    sleep: async (ms) => {
      if (++looks === 30) process.kill(pid, 'SIGCONT')
      await systemClock.sleep(ms)
    },
  }
  const fenced = await fenceShard(admin, epoch, { ...options, deadlineMs: 30_000, clock })
  expect(fenced).toEqual({ terminated: 1, prepared: [] })
  expect(looks).toBeGreaterThan(29)
})

test('V8: at the epoch of a fence no other history opens, and a history opens once', async () => {
  const [promoted, next] = [newRandomUuid(), newRandomUuid()]
  const openHistory = (history: string, at: number) =>
    admin.query('call holdfast.open_history($1, $2, $3, $4, $5)', [history, at, '0/1', 'promotion', []])
  const refused = { sqlState: 'HF008' } satisfies Partial<ServerError>
  await admin.query('select holdfast.fence($1)', [epoch])
  await expect(openHistory(promoted, epoch)).rejects.toMatchObject(refused)
  await openHistory(next, 3)
  await openHistory(next, 3)
  // What was fenced since is not taken back to where it opened.
  await admin.query('select holdfast.fence(4)')
  await expect(openHistory(next, 3)).rejects.toMatchObject(refused)
  const { rows } = await admin.query('select epoch, history_id, state from holdfast.shard')
  expect(rows).toEqual([{ epoch: 4, history_id: next, state: 'fenced' }])
  const histories = await admin.query('select history_id from holdfast.history where history_id = any($1)', [
    [promoted, next],
  ])
  expect(histories.rows).toEqual([{ history_id: next }])
})
