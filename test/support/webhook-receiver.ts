import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { assert } from '../../src/base/assert.ts'

/** The outside world of an outbox: a server on this machine that remembers what it was sent. */
export interface WebhookReceiver {
  readonly url: string
  /** The `Idempotency-Key` of every request, in order of arrival. */
  keys(): string[]
  bodies(): string[]
  /** Decides the status of each answer, by key and by how often the key has come; 204 when never called. */
  answer(status: (key: string, times: number) => number): void
  close(): Promise<void>
}

export async function receiveWebhooks(port: number | string = 0): Promise<WebhookReceiver> {
  const requests: { key: string; body: string }[] = []
  let status: (key: string, times: number) => number = () => 204
  const server = createServer((request, response) => {
    const chunks: Buffer[] = []
    request.on('data', (chunk: Buffer) => chunks.push(chunk))
    request.on('end', () => {
      const key = String(request.headers['idempotency-key'])
      requests.push({ key, body: Buffer.concat(chunks).toString('utf8') })
      const times = requests.filter((each) => each.key === key).length
      response.writeHead(status(key, times), { location: '/elsewhere' }).end()
    })
  })
  await new Promise<void>((resolve) => server.listen(Number(port), '127.0.0.1', resolve))
  const address: AddressInfo | string | null = server.address()
  assert(address !== null && typeof address === 'object', 'a server that listens has an address')
  return {
    url: `http://127.0.0.1:${address.port}/hook`,
    keys: () => requests.map(({ key }) => key),
    bodies: () => requests.map(({ body }) => body),
    answer: (next) => {
      status = next
    },
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve())
        server.closeAllConnections()
      }),
  }
}
