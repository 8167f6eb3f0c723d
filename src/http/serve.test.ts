import { connect } from 'node:net'
import { Hono } from 'hono'
import { expect, test } from 'vitest'
import { deferred } from '../base/deferred.ts'
import { serveHttp } from './serve.ts'

function app() {
  const hono = new Hono()
  hono.get('/', (c) => c.text('here'))
  return hono
}

test('serves at the URL it gives, until it is closed', async () => {
  const server = await serveHttp({ app: app(), host: '127.0.0.1', port: 0 })
  expect(await (await fetch(server.url)).text()).toBe('here')
  await server.close()
  await expect(fetch(server.url)).rejects.toThrow()
})

test('an address in use is refused with its name, and the one that holds it goes on', async () => {
  const first = await serveHttp({ app: app(), host: '127.0.0.1', port: 0 })
  const port = Number(new URL(first.url).port)
  await expect(serveHttp({ app: app(), host: '127.0.0.1', port })).rejects.toMatchObject({
    code: 'port_taken',
    message: `127.0.0.1:${port} is in use`,
  })
  expect((await fetch(first.url)).status).toBe(200)
  await first.close()
})

test('closing waits for the request that is under way', async () => {
  const hono = new Hono()
  const arrived = deferred<void>()
  const go = deferred<void>()
  hono.get('/', async (c) => {
    arrived.resolve()
    await go.promise
    return c.text('done')
  })
  const server = await serveHttp({ app: hono, host: '127.0.0.1', port: 0 })
  const answer = fetch(server.url).then((response) => response.text())
  await arrived.promise
  const closed = server.close()
  go.resolve()
  expect(await answer).toBe('done')
  await closed
})

test('H2: a request carries 64 tokens; larger headers are a problem that says so', async () => {
  const server = await serveHttp({ app: app(), host: '127.0.0.1', port: 0 })
  const asked = (chars: number) =>
    fetch(server.url, { headers: { 'Holdfast-Session': Array(64).fill('x'.repeat(chars)).join(', ') } })
  expect((await asked(814)).status).toBe(200)
  const refused = await asked(1100)
  expect([refused.status, refused.headers.get('content-type')]).toEqual([431, 'application/problem+json'])
  expect(await refused.json()).toMatchObject({ status: 431, code: 'argument_invalid' })
  await server.close()
})

/** What is answered to these bytes, and that nothing else follows on their connection. */
async function answerTo(bytes: string): Promise<{ readonly head: string; readonly body: unknown }> {
  const server = await serveHttp({ app: app(), host: '127.0.0.1', port: 0, headersWithinMs: 100 })
  const socket = connect(Number(new URL(server.url).port), '127.0.0.1')
  socket.write(bytes)
  const chunks: Buffer[] = []
  for await (const chunk of socket) chunks.push(chunk as Buffer)
  await server.close()
  const [head = '', body = ''] = Buffer.concat(chunks).toString('utf8').split('\r\n\r\n')
  return { head, body: JSON.parse(body) as unknown }
}

test.each<[number, string, string]>([
  [400, 'is none', 'HOLDFAST\r\n\r\n'],
  [400, 'has a header without a name', 'GET / HTTP/1.1\r\nHost: here\r\n: nothing\r\n\r\n'],
  [408, 'does not end its headers', 'GET / HTTP/1.1\r\nHost: here\r\n'],
])('W1: a problem of status %i answers a request that %s, and ends its connection', async (status, _, bytes) => {
  const { head, body } = await answerTo(bytes)
  expect(head).toMatch(new RegExp(`^HTTP/1.1 ${status} `))
  expect(head).toContain('Content-Type: application/problem+json')
  expect(head).toContain('Connection: close')
  expect(body).toMatchObject({ status, code: 'argument_invalid', category: 'invalid', retry: 'never' })
})
