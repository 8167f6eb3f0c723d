import { mkdtemp, rm } from 'node:fs/promises'
import type { Socket } from 'node:net'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { Connection } from './connection.ts'

/** A server that answers a login and then the given bytes, for ends that a real one reaches only by chance. */
async function withServer(answer: Buffer, use: (connection: Connection) => Promise<void>): Promise<void> {
  const host = await mkdtemp(join(tmpdir(), 'hfc-'))
  const server = createServer((socket: Socket) => {
    let messages = 0
    socket.on('error', () => undefined)
    socket.on('data', () => {
      messages += 1
      if (messages === 1) socket.write(Buffer.concat([message('R', int32(0)), message('Z', Buffer.from('I'))]))
      else socket.end(answer)
    })
  })
  await new Promise<void>((resolve) => server.listen(join(host, '.s.PGSQL.1'), resolve))
  const target = { host, port: 1, user: 'u', password: 'p', database: 'd', applicationName: 'test' }
  const connection = await Connection.connect(target, 5_000)
  try {
    await use(connection)
  } finally {
    connection.release()
    server.close()
    await rm(host, { recursive: true, force: true })
  }
}

test('D5: a fatal error in place of the tag of a commit is a lost connection, not a refusal', async () => {
  const answer = Buffer.concat([
    message('1', Buffer.alloc(0)),
    message('2', Buffer.alloc(0)),
    message('n', Buffer.alloc(0)),
    message('C', text('COMMIT')),
    message('E', Buffer.concat([text('SFATAL'), text('C57P01'), text('Mterminating'), Buffer.alloc(1)])),
  ])
  await withServer(answer, async (connection) => {
    await expect(connection.flight([{ text: 'commit' }])).rejects.toMatchObject({
      name: 'ConnectionLost',
      sent: true,
      outcomes: [],
      cause: { code: '57P01' },
    })
  })
})

test('HZ-S1: a warning is known by its code when its severity comes translated', async () => {
  const notice = Buffer.concat([text('SWARNUNG'), text('C01000'), text('Mabgebrochen'), Buffer.alloc(1)])
  const answer = Buffer.concat([
    message('1', Buffer.alloc(0)),
    message('2', Buffer.alloc(0)),
    message('n', Buffer.alloc(0)),
    message('N', notice),
    message('C', text('COMMIT')),
    message('Z', Buffer.from('I')),
  ])
  await withServer(answer, async (connection) => {
    const [outcome] = await connection.flight([{ text: 'commit' }])
    expect(outcome).toMatchObject({ tag: 'COMMIT', warnings: [{ code: '01000' }] })
  })
})

function message(kind: string, body: Buffer): Buffer {
  return Buffer.concat([Buffer.from(kind), int32(body.length + 4), body])
}

function text(value: string): Buffer {
  return Buffer.from(`${value}\0`)
}

function int32(value: number): Buffer {
  const bytes = Buffer.alloc(4)
  bytes.writeInt32BE(value)
  return bytes
}
