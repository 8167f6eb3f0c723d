import { createServer } from 'node:http'

/** The bank's side of the story: a receiver on this machine that remembers what it was sent, and how often. */
export interface WebhookReceiver {
  readonly url: string
  deliveries(): readonly Delivery[]
  close(): Promise<void>
}

export interface Delivery {
  /** The `Idempotency-Key` of the request: the id of the event. */
  readonly key: string
  readonly body: string
}

export async function receiveWebhooks(): Promise<WebhookReceiver> {
  const deliveries: Delivery[] = []
  const server = createServer((request, response) => {
    const chunks: Buffer[] = []
    request.on('data', (chunk: Buffer) => chunks.push(chunk))
    request.on('end', () => {
      deliveries.push({
        key: String(request.headers['idempotency-key']),
        body: Buffer.concat(chunks).toString('utf8'),
      })
      response.writeHead(204).end()
    })
  })
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject)
    server.listen(0, '127.0.0.1', resolve)
  })
  const address = server.address()
  if (address === null || typeof address === 'string') throw new Error('a server that listens has a port')
  return {
    url: `http://127.0.0.1:${address.port}/payroll-approved`,
    deliveries: () => deliveries,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve())
        server.closeAllConnections()
      }),
  }
}

/** The keys that came more than once. */
export function arrivedTwice(deliveries: readonly Delivery[]): string[] {
  const seen = new Set<string>()
  return deliveries.flatMap(({ key }) => {
    if (seen.has(key)) return [key]
    seen.add(key)
    return []
  })
}
