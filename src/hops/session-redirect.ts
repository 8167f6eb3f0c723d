/**
 * Where an answer redirects to, by the rules of the Fetch standard ("HTTP-redirect fetch"). A session's requests follow
 * redirects by hand: `fetch` takes every header but `Authorization` along to whatever origin is named next, tokens too (H3).
 */
export interface Leg {
  readonly url: URL
  readonly method: string
  /** Without the session's. */
  readonly headers: Headers
  /** A stream has been read by the time its answer is there, and cannot be sent twice. */
  readonly body: 'none' | 'repeatable' | 'stream'
}

/** As many as the standard follows. */
export const redirectsMax = 20

const redirectStatuses: ReadonlySet<number> = new Set([301, 302, 303, 307, 308])
const bodyHeaders = ['Content-Encoding', 'Content-Language', 'Content-Location', 'Content-Type', 'Content-Length']
/** The standard names the first; a program that is no browser can set the others as well. */
const originHeaders = ['Authorization', 'Proxy-Authorization', 'Cookie', 'Host']
const normalisedMethods = ['DELETE', 'GET', 'HEAD', 'OPTIONS', 'POST', 'PUT']

/** The request that follows an answer; undefined where it is no redirect. Throws a `TypeError` where `fetch` does. */
export function redirectOf(
  leg: Leg,
  { status, headers: answered }: Pick<Response, 'status' | 'headers'>,
): Leg | undefined {
  const location = answered.get('Location')
  if (location === null || !redirectStatuses.has(status)) return undefined
  const url = new URL(location, leg.url)
  if (url.protocol !== 'http:' && url.protocol !== 'https:') {
    throw new TypeError(`a redirect from ${leg.url.origin} leads to ${url.protocol}, which is not HTTP`)
  }
  if (url.hash === '') url.hash = leg.url.hash
  const turnsToGet = status === 303 ? !isReading(leg.method) : status < 303 && leg.method === 'POST'
  if (!turnsToGet && leg.body === 'stream') {
    throw new TypeError(`a redirect from ${leg.url.origin} asks for a body again that was a stream`)
  }
  const left = [...(turnsToGet ? bodyHeaders : []), ...(url.origin === leg.url.origin ? [] : originHeaders)]
  const headers = new Headers(leg.headers)
  for (const name of left) headers.delete(name)
  return turnsToGet ? { url, method: 'GET', headers, body: 'none' } : { ...leg, url, headers }
}

/** As the standard normalises it, which leaves the case of methods that it does not know. */
export function methodOf(given: string | undefined): string {
  const method = given ?? 'GET'
  return normalisedMethods.includes(method.toUpperCase()) ? method.toUpperCase() : method
}

function isReading(method: string): boolean {
  return method === 'GET' || method === 'HEAD'
}
