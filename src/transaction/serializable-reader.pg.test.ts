import { afterAll, afterEach, beforeAll, expect, test } from 'vitest'
import { gate, gatewayOf, insertHold, insertRun, newRun, request } from '../../test/support/approval.ts'
import { DatabaseShards, tenant, treasury } from '../../test/support/database-shards.ts'
import { newRandomUuid } from '../base/random.ts'
import type { StepName } from '../base/step.ts'
import { Connection } from '../postgres/connection.ts'
import type { Isolation } from './transaction.ts'
import { transact } from './transaction.ts'

/**
 * The anomaly of a reader alone (Fekete, O'Neil and O'Neil, 2004). A book is closed while somebody who saw it open still enters
 * a row; between the two, the reader sees the closed book without that row. Each of the writers is serializable in a
 * connection of its own, so that only the reader is under test.
 */
let shards: DatabaseShards

const look = `select (select state from books where name = $1) as book,
  (select count(*) from holds where run = $2)::int as entries`

// A table of its own: else the writers would get in each other's way by the pages that they share.
beforeAll(async () => {
  shards = await DatabaseShards.open()
  await shards.admin(treasury).script(`
    create table books (tenant text not null, name text not null, state text not null);
    call holdfast.govern('books', 'treasury', 'regulated')`)
})

afterEach(async () => {
  await shards.closeGateways()
})

afterAll(async () => {
  await shards.close()
})

const nothing = () => Promise.resolve()

const endSession = (connection: Connection) =>
  shards.rows(treasury, 'select pg_terminate_backend($1, 5000)', [connection.serverProcessId])

/** Every backend of a gateway at the treasury. */
async function endConnections(): Promise<void> {
  await shards.rows(
    treasury,
    `select pg_terminate_backend(pid, 5000) from pg_stat_activity
     where usename = 'holdfast_gateway' and datname = current_database()`,
  )
}

async function writers() {
  const [book, entry] = [newRun(), `entry-${newRandomUuid().slice(0, 8)}`]
  await shards.rows(treasury, "insert into books values ($1, $2, 'open')", [tenant, book])
  const late = await Connection.connect(shards.target(treasury), 5_000)
  await late.query('begin isolation level serializable')
  await late.query(look, [book, entry])
  await shards
    .admin(treasury)
    .flight([
      { text: 'begin isolation level serializable' },
      { text: "update books set state = 'closed' where name = $1", values: [book] },
      { text: 'commit' },
    ])
  return {
    book,
    entry,
    enter: async () => {
      const outcomes = await late.flight([{ text: insertHold, values: [tenant, entry] }, { text: 'commit' }])
      late.release()
      const [refused] = outcomes.flatMap((outcome) => (outcome.ok ? [] : [outcome.error.sqlState]))
      return refused ?? 'entered'
    },
  }
}

async function readBetween(isolation: Isolation, at: StepName, meanwhile: () => Promise<unknown>) {
  const { book, entry, enter } = await writers()
  const stop = gate(at)
  const environment = await gatewayOf(shards, { onStep: stop.onStep })
  const run = newRun()
  const reading = transact(environment, request(run, { isolation }), async (tx) => {
    const { rows } = await tx.query('treasury', look, [book, entry])
    await tx.query('payroll', insertRun, [tenant, run])
    return rows
  })
  await stop.reached
  await meanwhile()
  const before = at === 'local reply' ? undefined : await enter()
  stop.release()
  const { value } = await reading
  await environment.background.drain()
  expect(value).toEqual([{ book: 'closed', entries: 0 }])
  return before ?? (await enter())
}

test.each([
  ['before the decision', 'local stamp', nothing],
  ['after the decision', 'local reply', nothing],
  ['when its connection ended in between', 'local stamp', endConnections],
] as const)('a serializable reader keeps the late entry out: %s', async (_, at, meanwhile) => {
  expect(await readBetween('serializable', at, meanwhile)).toBe('40001')
})

test.each([
  ['committed before the late entry', '40001', async (reader) => reader.query('commit')],
  ['held open', '40001', nothing],
  ['prepared', '40001', async (reader) => reader.query("prepare transaction 'reader'")],
  ['rolled back', 'entered', async (reader) => reader.query('rollback')],
  ['held open on a connection that ends', 'entered', endSession],
] as [string, string, (reader: Connection) => Promise<unknown>][])(
  'what PostgreSQL makes of a reader that is %s: %s',
  async (_, expected, meanwhile) => {
    const { book, entry, enter } = await writers()
    const reader = await Connection.connect(shards.target(treasury), 5_000)
    await reader.query('begin isolation level serializable')
    expect((await reader.query(look, [book, entry])).rows).toEqual([{ book: 'closed', entries: 0 }])
    await meanwhile(reader)
    expect(await enter()).toBe(expected)
    reader.release()
    for (const gid of await shards.prepared(treasury)) await shards.rows(treasury, `rollback prepared '${gid}'`)
  },
)

test('one under repeatable read does not: nobody watches over what it read', async () => {
  expect(await readBetween('repeatable read', 'local stamp', nothing)).toBe('entered')
})
