import { mkdtemp, rm } from 'node:fs/promises'
import { createConnection, createServer, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { ManualClock } from '../../test/support/manual-clock.ts'
import type { Clock } from '../base/clock.ts'
import { systemClock } from '../base/clock.ts'
import type { RegionName } from '../directory/topology.ts'
import type { Link } from './links.ts'
import { openLink } from './links.ts'

let folder: string
let closing: (() => Promise<unknown>)[]

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'hf-'))
  closing = []
})

afterEach(async () => {
  for (const close of closing.reverse()) await close()
  await rm(folder, { recursive: true })
})

/** A server at the far end; every connection it takes is in the list. */
async function serve(onConnection: (socket: Socket) => void): Promise<Socket[]> {
  const sockets: Socket[] = []
  const server = createServer({ allowHalfOpen: true }, (socket) => {
    sockets.push(socket)
    socket.on('error', () => {})
    onConnection(socket)
  })
  await new Promise<void>((resolve) => server.listen(join(folder, 'far'), resolve))
  closing.push(() => {
    for (const socket of sockets) socket.destroy()
    return new Promise((resolve) => server.close(resolve))
  })
  return sockets
}

const echo = (socket: Socket) => socket.pipe(socket)

async function link(delayMs: number, clock: Clock = systemClock): Promise<Link> {
  const opened = await openLink({
    fromRegion: 'us-east' as RegionName,
    toRegion: 'eu-west' as RegionName,
    toNode: 'eu-west/payroll.1',
    kind: 'client',
    listenPath: join(folder, 'near'),
    targetPath: join(folder, 'far'),
    delayMs,
    clock,
  })
  closing.push(() => opened.close())
  return opened
}

interface Client {
  readonly socket: Socket
  received(): string
  state(): 'open' | 'ended' | 'broken'
}

function connect(): Client {
  const socket = createConnection({ path: join(folder, 'near'), allowHalfOpen: true })
  let text = ''
  let state: 'open' | 'ended' | 'broken' = 'open'
  socket.on('error', () => {})
  socket.setEncoding('latin1')
  socket.on('data', (piece) => {
    text += String(piece)
  })
  socket.on('end', () => {
    state = 'ended'
  })
  socket.on('close', () => {
    if (state === 'open') state = 'broken'
  })
  closing.push(async () => socket.destroy())
  return { socket, received: () => text, state: () => state }
}

/** What is waited for comes from the system and comes soon; how soon decides nothing. */
const eventually = (check: () => void | Promise<void>) => vi.waitFor(check, { timeout: 30_000, interval: 2 })
vi.setConfig({ testTimeout: 60_000 })

describe('what enters a link comes out', () => {
  test.each([0, 3])('K1: megabytes both ways, whole and in order, with a delay of %i ms', async (delayMs) => {
    await serve(echo)
    const opened = await link(delayMs)
    const client = connect()
    const sent = Array.from({ length: 400_000 }, (_, index) => `${index};`).join('')
    client.socket.end(sent, 'latin1')
    await eventually(() => expect(client.state()).toBe('ended'))
    expect(client.received() === sent).toBe(true)
    expect(opened.counters()).toMatchObject({ connections: 1, bytesTo: sent.length, bytesFrom: sent.length })
  })

  test('K1: a half that the client closes is closed at the server, and the answer still comes', async () => {
    await serve((socket) => {
      let length = 0
      socket.on('data', (bytes) => {
        length += bytes.length
      })
      socket.on('end', () => socket.end(`got ${length}`))
    })
    await link(1)
    const client = connect()
    client.socket.end('hello')
    await eventually(() => expect(client.state()).toBe('ended'))
    expect(client.received()).toBe('got 5')
  })

  test('K1: everything that a server wrote before it closed arrives, at a client that reads late', async () => {
    // Some of these sizes leave a last piece that the system has no room for when the server is gone.
    const sizes = Array.from({ length: 32 }, (_, index) => 100_000 + index * 8_000)
    const gone: number[] = []
    await serve((socket) => {
      socket.resume()
      socket.once('data', (bytes) => {
        const size = Number(bytes.toString())
        socket.on('close', () => gone.push(size))
        socket.end(Buffer.alloc(size, 'x'))
      })
    })
    await link(0)
    for (const size of sizes) {
      const socket = createConnection({ path: join(folder, 'near'), allowHalfOpen: true })
      closing.push(async () => socket.destroy())
      socket.end(String(size))
      await eventually(() => expect(gone).toContain(size))
      let length = 0
      for await (const bytes of socket) length += Buffer.from(bytes).length
      expect(length).toBe(size)
    }
  })

  test('a server that breaks off is a broken connection for the client', async () => {
    const servers = await serve(echo)
    await link(0)
    const client = connect()
    client.socket.write('x')
    await eventually(() => expect(client.received()).toBe('x'))
    servers[0]?.destroy()
    await eventually(() => expect(client.state()).not.toBe('open'))
  })

  test('a client that breaks off is gone for the server', async () => {
    const servers = await serve((socket) => socket.resume())
    await link(0)
    const client = connect()
    client.socket.write('x')
    await eventually(() => expect(servers.length).toBe(1))
    client.socket.destroy()
    await eventually(() => expect(servers[0]?.readableEnded).toBe(true))
  })

  test('no server at the far end is a broken connection', async () => {
    await link(0)
    const client = connect()
    await eventually(() => expect(client.state()).not.toBe('open'))
  })
})

describe('the delay', () => {
  test('K1: nothing crosses before it, in either direction', async () => {
    const clock = new ManualClock()
    const servers = await serve(echo)
    const opened = await link(40, clock)
    const client = connect()
    client.socket.write('x')
    await eventually(() => expect(opened.counters().bytesTo).toBe(1))
    await clock.advance(39)
    expect(servers.length).toBe(0)
    await clock.advance(1)
    await eventually(() => expect(servers[0]?.bytesWritten).toBe(1))
    // The answer is in the link once the clock has somebody to wake.
    await eventually(() => expect(clock.sleeping).toBe(1))
    await clock.advance(39)
    expect(opened.counters().bytesFrom).toBe(0)
    await clock.advance(1)
    await eventually(() => expect(client.received()).toBe('x'))
  })
})

describe('a cut', () => {
  test('K2: holds what enters, closes nothing, and lets everything out when healed', async () => {
    const servers = await serve(echo)
    const opened = await link(0)
    const client = connect()
    client.socket.write('a')
    await eventually(() => expect(client.received()).toBe('a'))
    opened.cut('both')
    client.socket.write('b')
    client.socket.write('c')
    await eventually(() => expect(opened.counters().bytesTo).toBe(3))
    expect(servers[0]?.bytesRead).toBe(1)
    expect(client.state()).toBe('open')
    opened.heal()
    await eventually(() => expect(client.received()).toBe('abc'))
  })

  test('K2: of the way back lets requests through and holds the answers', async () => {
    const servers = await serve(echo)
    const opened = await link(0)
    opened.cut('from')
    const client = connect()
    client.socket.write('pay')
    await eventually(() => expect(servers[0]?.bytesWritten).toBe(3))
    expect(client.received()).toBe('')
    opened.heal()
    await eventually(() => expect(client.received()).toBe('pay'))
  })

  test('K2: of the way there holds requests and lets answers through', async () => {
    const servers = await serve(() => {})
    const opened = await link(0)
    const client = connect()
    await eventually(() => expect(servers.length).toBe(1))
    opened.cut('to')
    client.socket.write('x')
    servers[0]?.write('news')
    await eventually(() => expect(client.received()).toBe('news'))
    await eventually(() => expect(opened.counters().bytesTo).toBe(1))
    expect(servers[0]?.bytesRead).toBe(0)
  })

  test('K2: a new connection hangs, and goes on when healed', async () => {
    const servers = await serve(echo)
    const opened = await link(0)
    opened.cut('both')
    const client = connect()
    client.socket.write('x')
    await eventually(() => expect(opened.counters().bytesTo).toBe(1))
    expect(servers.length).toBe(0)
    opened.heal()
    await eventually(() => expect(client.received()).toBe('x'))
  })

  test('K2: hides that a server is gone until healed', async () => {
    const servers = await serve(echo)
    const opened = await link(0)
    const client = connect()
    client.socket.write('x')
    await eventually(() => expect(client.received()).toBe('x'))
    opened.cut('both')
    const gone = new Promise((resolve) => servers[0]?.on('close', resolve))
    servers[0]?.destroy()
    await gone
    await new Promise((resolve) => setImmediate(resolve))
    expect(client.state()).toBe('open')
    opened.heal()
    await eventually(() => expect(client.state()).not.toBe('open'))
  })

  test('cuts of two directions add up', async () => {
    const servers = await serve(echo)
    const opened = await link(0)
    opened.cut('to')
    opened.cut('from')
    const client = connect()
    client.socket.write('x')
    await eventually(() => expect(opened.counters().bytesTo).toBe(1))
    expect(servers.length).toBe(0)
  })
})

test('K3: a receiver that does not read stops the sender', async () => {
  const servers = await serve((socket) => socket.pause())
  const opened = await link(0)
  const client = connect()
  const total = 64 * 1024 * 1024
  client.socket.write(Buffer.alloc(total))
  let before = -1
  await vi.waitFor(
    () => {
      const { bytesTo } = opened.counters()
      const stopped = bytesTo === before && bytesTo > 0
      before = bytesTo
      expect(stopped).toBe(true)
    },
    { timeout: 30_000, interval: 100 },
  )
  expect(opened.counters().bytesTo).toBeLessThan(16 * 1024 * 1024)
  servers[0]?.resume()
  await eventually(() => expect(opened.counters().bytesTo).toBe(total))
})

describe('sever and close', () => {
  test('break off every connection on both sides; a severed link takes new ones', async () => {
    const servers = await serve(echo)
    const opened = await link(0)
    const clients = [connect(), connect()]
    for (const client of clients) client.socket.write('x')
    await eventually(() => expect(clients.map((client) => client.received())).toEqual(['x', 'x']))
    opened.sever()
    await eventually(() => expect(clients.every((client) => client.state() !== 'open')).toBe(true))
    await eventually(() => expect(servers.every((socket) => socket.readableEnded)).toBe(true))
    const next = connect()
    next.socket.write('y')
    await eventually(() => expect(next.received()).toBe('y'))
  })

  test('a closed link leaves no socket, and a socket of a crash is replaced', async () => {
    await serve(echo)
    const left = createServer()
    await new Promise<void>((resolve) => left.listen(join(folder, 'near'), resolve))
    await link(0)
    const client = connect()
    client.socket.write('x')
    await eventually(() => expect(client.received()).toBe('x'))
    await new Promise((resolve) => left.close(resolve))
  })

  test('a link closes while it is cut and holds bytes', async () => {
    await serve(echo)
    const opened = await link(5)
    opened.cut('both')
    const client = connect()
    client.socket.write('x')
    await eventually(() => expect(opened.counters().bytesTo).toBe(1))
    await opened.close()
    await eventually(() => expect(client.state()).not.toBe('open'))
  })
})

test('K4: three dependent requests are three round trips, and a flight of many writes is one', async () => {
  const clock = new ManualClock()
  await serve(echo)
  const opened = await link(10, clock)
  const client = connect()
  const flight = async (pieces: string[]) => {
    const before = client.received().length
    const { bytesTo } = opened.counters()
    const length = pieces.join('').length
    for (const piece of pieces) {
      const entered = opened.counters().bytesTo + piece.length
      client.socket.write(piece)
      await eventually(() => expect(opened.counters().bytesTo).toBe(entered))
    }
    expect(opened.counters().bytesTo).toBe(bytesTo + length)
    await eventually(async () => {
      await clock.advance(10)
      expect(client.received().length).toBe(before + length)
    })
  }
  await flight(['a'])
  await flight(['bb'])
  await flight(['c', 'd', 'e', 'f'])
  expect(opened.counters().roundTrips).toBe(3)
  opened.resetCounters()
  await flight(['g', 'h'])
  expect(opened.counters()).toEqual({ connections: 0, roundTrips: 1, bytesTo: 2, bytesFrom: 2 })
})
