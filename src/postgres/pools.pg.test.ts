import { once } from 'node:events'
import { type AddressInfo, createServer } from 'node:net'
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest'
import type { FreshDatabase } from '../../test/support/database.ts'
import { freshDatabase } from '../../test/support/database.ts'
import { ConnectionPools } from './pools.ts'
import { sqlState } from './sqlstate.ts'

let database: FreshDatabase
let pools: ConnectionPools

beforeAll(async () => {
  database = await freshDatabase()
})

afterAll(async () => {
  await database.drop()
})

beforeEach(() => {
  pools = new ConnectionPools({
    transactionConnectionsMax: 2,
    serviceConnectionsMax: 2,
    connectWithinMs: 5_000,
    idleMs: 60_000,
  })
})

afterEach(async () => {
  await pools.close()
})

test('trap 8: a reserved connection is nobody else’s until it is released, and then it is used again', async () => {
  const [one, two] = await Promise.all([pools.reserve(database.target()), pools.reserve(database.target())])
  expect(one.serverProcessId).not.toBe(two.serverProcessId)
  await one.query('begin')
  await one.query(`set local application_name = 'mine'`)
  expect((await two.query('show application_name')).rows).toEqual([{ application_name: 'test' }])
  await one.query('commit')
  const first = one.serverProcessId
  one.release()
  const again = await pools.reserve(database.target())
  expect(again.serverProcessId).toBe(first)
  again.release()
  two.release()
})

test('statements of no transaction get through while every connection for transactions is taken', async () => {
  const taken = await Promise.all([pools.reserve(database.target()), pools.reserve(database.target())])
  const [outcome] = await pools.flight(database.target(), [{ text: 'select 1 as n' }])
  expect(outcome).toMatchObject({ ok: true, rows: [{ n: 1 }] })
  for (const connection of taken) connection.release()
})

/** Messages of the protocol: their type, their length, their body. */
function message(type: string, body: Buffer): Buffer {
  const head = Buffer.alloc(5, type)
  head.writeInt32BE(body.length + 4, 1)
  return Buffer.concat([head, body])
}

test('a server that ends a connection in the very answer that opens it costs that connection and not the process', async () => {
  const opened = Buffer.concat([message('R', Buffer.alloc(4)), message('Z', Buffer.from('I'))])
  const ended = message('E', Buffer.from('SFATAL\0C57P01\0Mterminating connection\0\0'))
  const server = createServer((socket) => {
    socket.on('error', () => undefined)
    socket.once('data', () => socket.end(Buffer.concat([opened, ended])))
  })
  await once(server.listen(0, '127.0.0.1'), 'listening')
  const { port } = server.address() as AddressInfo
  const target = { ...database.target(), host: '127.0.0.1', port }
  const use = async () => {
    const connection = await pools.reserve(target)
    try {
      await connection.query('select 1')
    } finally {
      connection.release()
    }
  }
  await expect(use()).rejects.toThrow()
  server.close()
})

test('a connection that broke is not used again', async () => {
  const connection = await pools.reserve(database.target())
  const broken = connection.serverProcessId
  await expect(connection.query('select pg_terminate_backend(pg_backend_pid())')).rejects.toMatchObject({ sent: true })
  connection.release()
  const next = await pools.reserve(database.target())
  expect(next.serverProcessId).not.toBe(broken)
  expect((await next.query('select 1 as n')).rows).toEqual([{ n: 1 }])
  next.release()
})

test('a connection released inside a transaction is closed, and the transaction rolls back', async () => {
  const connection = await pools.reserve(database.target())
  const left = connection.serverProcessId
  await connection.flight([{ text: 'begin' }, { text: 'create table left_behind ()' }])
  connection.release()
  const next = await pools.reserve(database.target())
  expect(next.serverProcessId).not.toBe(left)
  const gone = async () => (await next.query('select from pg_stat_activity where pid = $1', [left])).rowCount
  await expect.poll(gone, { timeout: 20_000 }).toBe(0)
  expect((await next.query(`select to_regclass('left_behind') as found`)).rows).toEqual([{ found: null }])
  next.release()
})

test('a connection released before its answer rejects the flight as unknown', async () => {
  const connection = await pools.reserve(database.target())
  const flight = connection.flight([{ text: 'select pg_sleep(600)' }])
  connection.release()
  await expect(flight).rejects.toMatchObject({ sent: true })
})

test.each(['idle', 'lent'])(
  'N5: where a prepared plan no longer fits its table its connection is replaced, and one that is %s',
  async (state) => {
    const [connection, other] = await Promise.all([pools.reserve(database.target()), pools.reserve(database.target())])
    await other.query(`create table changing_${state} (id int)`)
    const text = `select * from changing_${state}`
    for (const each of [connection, other]) await each.query(text)
    await other.query(`alter table changing_${state} add column name text`)
    const known = [connection, other].map(({ serverProcessId }) => serverProcessId)
    if (state === 'idle') other.release()
    const refused = { sqlState: sqlState.featureNotSupported, isOutdated: true }
    await expect(connection.query(text)).rejects.toMatchObject(refused)
    connection.release()
    other.release()
    const both = await Promise.all([pools.reserve(database.target()), pools.reserve(database.target())])
    for (const next of both) {
      expect(known).not.toContain(next.serverProcessId)
      expect((await next.query(text)).fields.map((field) => field.name)).toEqual(['id', 'name'])
      next.release()
    }
  },
)

test.each([
  ['fill the server with prepared statements', 'select'],
  ['that it refuses fill this process with their names', 'select from nowhere where'],
])('a connection is replaced before made-up texts %s', async (_, text) => {
  const first = await pools.reserve(database.target())
  const full = first.serverProcessId
  await first.flight(Array.from({ length: 501 }, (_none, i) => ({ text: `${text} ${i}` })))
  first.release()
  const next = await pools.reserve(database.target())
  expect(next.serverProcessId).not.toBe(full)
  next.release()
})

test('closing breaks off what is still in use, and later uses are refused as not sent', async () => {
  const connection = await pools.reserve(database.target())
  const flight = connection.flight([{ text: 'select pg_sleep(600)' }])
  const rejected = expect(flight).rejects.toMatchObject({ sent: true })
  await pools.close()
  await rejected
  await expect(pools.reserve(database.target())).rejects.toMatchObject({ sent: false })
})

test('a server that is forgotten is connected to anew, also while an old connection is still in use', async () => {
  const stuck = await pools.reserve(database.target())
  await pools.forget(database.target())
  const fresh = await pools.reserve(database.target())
  expect(fresh.serverProcessId).not.toBe(stuck.serverProcessId)
  fresh.release()
  stuck.release()
})
