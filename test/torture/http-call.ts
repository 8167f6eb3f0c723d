import type { IncomingHttpHeaders } from 'node:http'
import { Agent, request } from 'node:http'
import { json } from 'node:stream/consumers'

/** Nobody listens there: nothing was sent. */
export class NotReached extends Error {}

export interface HttpAnswer {
  readonly ok: boolean
  readonly body: unknown
  /** The token that came with it; empty for none. */
  readonly session: string
}

/** Longer than this nobody waits for an answer; the gateway may be frozen, or its server. */
const answerWithinMs = 8_000
/** Of this one there are many calls: `fetch` costs the process of all clients as much as the gateway that answers. */
const agent = new Agent({ keepAlive: true })

/** Rejects with `NotReached`, or when there was no answer. */
export function callHttp(url: URL, body: object | undefined, headers: Readonly<Record<string, string>>) {
  return new Promise<HttpAnswer>((resolve, reject) => {
    const method = body === undefined ? 'GET' : 'POST'
    const call = request(url, { agent, method, headers: { 'content-type': 'application/json', ...headers } })
    const patience = setTimeout(() => call.destroy(new Error(`no answer within ${answerWithinMs} ms`)), answerWithinMs)
    call.once('close', () => clearTimeout(patience))
    call.once('error', (error) => reject('code' in error && error.code === 'ECONNREFUSED' ? new NotReached() : error))
    call.once('response', (response) => {
      const { statusCode = 0, headers: given } = response
      json(response).then((told) => resolve({ ok: statusCode < 400, body: told, session: sessionOf(given) }), reject)
    })
    call.end(body === undefined ? undefined : JSON.stringify(body))
  })
}

function sessionOf({ 'holdfast-session': session }: IncomingHttpHeaders): string {
  return typeof session === 'string' ? session : ''
}
