import { once } from 'node:events'
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest'
import type { FreshDatabase } from '../../test/support/database.ts'
import { freshDatabase } from '../../test/support/database.ts'
import type { DriverClient } from './driver.ts'
import { clientConfig } from './driver.ts'
import { Pool, PoolBusy } from './pool.ts'

/** A way to the server on which connections are made, or wait, as the test has it. */
let way: Server
let mayPass: boolean
let held: Socket[]
const sockets = new Set<Socket>()

let database: FreshDatabase
let pool: Pool

beforeAll(async () => {
  database = await freshDatabase()
})

afterAll(async () => {
  await database.drop()
})

beforeEach(async () => {
  mayPass = true
  held = []
  way = createServer((socket) => {
    if (mayPass) pass(socket)
    else held.push(socket)
    watch(socket)
  })
  await once(way.listen(0, '127.0.0.1'), 'listening')
})

afterEach(() => {
  pool.end()
  for (const socket of sockets) socket.destroy()
  way.close()
})

function pass(socket: Socket): void {
  const { host, port } = database.target()
  const server = host.startsWith('/') ? connect(join(host, `.s.PGSQL.${port}`)) : connect(port, host)
  watch(server)
  socket.pipe(server).pipe(socket)
}

function watch(socket: Socket): void {
  sockets.add(socket)
  socket.on('error', () => undefined)
  socket.on('close', () => sockets.delete(socket))
}

function openPool(max: number, { waitMs = 30_000, idleMs = 60_000 } = {}): Pool {
  const { port } = way.address() as AddressInfo
  const target = { ...database.target(), host: '127.0.0.1', port, applicationName: 'pool' }
  pool = new Pool({ client: clientConfig(target, waitMs), max, waitMs, idleMs })
  return pool
}

const heldCount = () => held.length

function letPass(index: number): void {
  const socket = held[index]
  if (socket !== undefined) pass(socket)
}

const ended = (client: DriverClient) => new Promise<void>((resolve) => void client.once('end', resolve))

test('N1: who waits gets the connection that is given back while another is made', async () => {
  openPool(3)
  mayPass = false
  const first = pool.take()
  await expect.poll(heldCount).toBe(1)
  letPass(0)
  const client = await first
  const [second, third] = [pool.take(), pool.take()]
  await expect.poll(heldCount).toBe(3)
  pool.giveBack(client, true)
  expect(await second).toBe(client)
  letPass(1)
  expect(await third).not.toBe(client)
})

test('N2: another connection is ready before it is needed, up to the greatest number', async () => {
  openPool(2)
  const first = await pool.take()
  await expect.poll(async () => (await first.query(connected)).rowCount).toBe(2)
  mayPass = false
  const second = await pool.take()
  expect(second).not.toBe(first)
  const waiting = pool.take()
  expect((await first.query(connected)).rowCount).toBe(2)
  pool.giveBack(second, true)
  expect(await waiting).toBe(second)
  expect(heldCount()).toBe(0)
})

const connected = "select from pg_stat_activity where application_name = 'pool' and datname = current_database()"

test('N3: a connection that cannot be made fails who waits for it, and nobody else', async () => {
  openPool(2)
  mayPass = false
  const [early, late] = [pool.take(), pool.take()]
  await expect.poll(heldCount).toBe(2)
  letPass(1)
  const client = await early
  const failed = expect(late).rejects.toThrow('Connection terminated')
  held[0]?.destroy()
  await failed
  expect((await client.query('select 1')).rowCount).toBe(1)
})

test('who waits for too long is refused, and a server that comes back is connected to', async () => {
  openPool(1, { waitMs: 300 })
  const client = await pool.take()
  await expect(pool.take(20)).rejects.toThrow('no connection was free within 20 ms')
  await expect(pool.take()).rejects.toThrow('no connection was free within 300 ms')
  pool.giveBack(client, false)
  expect(await pool.take()).not.toBe(client)
})

test('N4: who stood behind others is told so, and who was not let in is not', async () => {
  openPool(1)
  const client = await pool.take()
  await expect(pool.take(30_000, 20)).rejects.toBeInstanceOf(PoolBusy)
  // Longer than a connection may take to be made: the one in front of him works.
  const patient = pool.take(20, 30_000)
  await new Promise((resolve) => setTimeout(resolve, 60))
  pool.giveBack(client, true)
  const again = await patient
  mayPass = false
  pool.giveBack(again, false)
  const refused = await pool.take(40, 20).catch((error: unknown) => error)
  expect(refused).not.toBeInstanceOf(PoolBusy)
  expect(refused).toMatchObject({ message: 'no connection was made within 40 ms' })
  const early = await pool.take(20, 30_000).catch((error: unknown) => error)
  expect(early).toMatchObject({ message: 'no connection was made within 20 ms' })
})

test('what idles for long is closed, and what breaks while it idles is not lent', async () => {
  openPool(1, { idleMs: 500 })
  const client = await pool.take()
  const over = ended(client)
  pool.giveBack(client, true)
  await over
  const next = await pool.take()
  expect(next).not.toBe(client)
  const broken = ended(next)
  pool.giveBack(next, true)
  for (const socket of sockets) socket.destroy()
  await broken
  expect(await pool.take()).not.toBe(next)
})

test('the end refuses who waits, and closes what is given back', async () => {
  openPool(1)
  const client = await pool.take()
  const waiting = expect(pool.take()).rejects.toThrow('the pool is closed')
  pool.end()
  await waiting
  await expect(pool.take()).rejects.toThrow('the pool is closed')
  const over = ended(client)
  pool.giveBack(client, true)
  await over
})
