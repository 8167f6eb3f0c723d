import type { OnLoss } from './hops.ts'
import { formatCarried, parseCarried, sessionHeader, together } from './hops.ts'
import { SessionCarrier } from './session-carrier.ts'
import type { CookieOptions, CookiesReceived } from './session-cookies.ts'
import { noCookies, readCookies, writeCookies } from './session-cookies.ts'

/** As much of Node's `IncomingMessage` as is used. */
export interface IncomingRequest {
  readonly headers: Readonly<Record<string, string | readonly string[] | undefined>>
}

/** As much of Node's `ServerResponse` as is used. */
export interface OutgoingAnswer {
  readonly headersSent: boolean
  getHeader(name: string): number | string | readonly string[] | undefined
  setHeader(name: string, value: string | readonly string[]): unknown
  /** It has several forms, all of which are handed on as they come. */
  writeHead(...args: readonly unknown[]): unknown
}

export interface SessionMiddlewareOptions {
  /** Where a browser keeps the tokens. False, when left out: only in the header. */
  readonly cookies?: CookieOptions | false | undefined
  readonly onLoss?: OnLoss | undefined
}

export type SessionMiddleware = (request: IncomingRequest, answer: OutgoingAnswer, next: () => void) => void

/** Where a request keeps its carrier. */
const carrierOf = Symbol('holdfast session')

/**
 * Carries the session of each request through this program, in the form that Connect, Express and Fastify know. What the
 * request brings is at `sessionOf(request)`, for `sessionFetch` or for `carrier.carry`; what is carried when the answer
 * leaves goes back with it.
 *
 * ```ts
 * app.use(sessionMiddleware({ cookies: {} }))                                            // Express
 * const carry = sessionMiddleware({ cookies: {} })                                       // Fastify
 * app.addHook('onRequest', (request, reply, done) => carry(request.raw, reply.raw, done))
 * ```
 *
 * HAZARD: an answer with a token must not be kept by a cache that others share, since it would hand the session on. Such
 * answers are marked `Cache-Control: private`, unless the program says `no-store` or `private` itself.
 */
export function sessionMiddleware({ cookies = false, onLoss }: SessionMiddlewareOptions = {}): SessionMiddleware {
  return (request, answer, next) => {
    const kept: CookiesReceived =
      cookies === false ? noCookies : readCookies(textOf(request.headers['cookie']), cookies)
    const inHeader = parseCarried(textOf(request.headers[sessionHeader.toLowerCase()]))
    const carrier = new SessionCarrier({ carried: together([...inHeader, ...kept.carried]), onLoss })
    if (kept.missing > 0) onLoss?.({ reason: 'cookie missing', tokens: kept.missing, detail: '' })
    if (kept.ignored.length > 0) onLoss?.({ reason: 'cookie malformed', tokens: kept.ignored.length, detail: '' })
    Object.defineProperty(request, carrierOf, { value: carrier, configurable: true })
    beforeHeaders(answer, () => {
      const carried = carrier.takeForAnswer()
      const header = formatCarried(carried)
      if (header !== undefined) {
        answer.setHeader(sessionHeader, header)
        keepPrivate(answer)
      }
      if (cookies === false) return
      const changes = writeCookies(kept, carried, cookies)
      if (changes.length > 0) answer.setHeader('Set-Cookie', [...listOf(answer.getHeader('Set-Cookie')), ...changes])
    })
    next()
  }
}

/** The carrier of a request that the middleware has seen; of Fastify's, that of `request.raw`. */
export function sessionOf(request: object): SessionCarrier {
  const carrier: unknown = carrierOf in request ? request[carrierOf] : undefined
  if (carrier instanceof SessionCarrier) return carrier
  throw new TypeError('this request did not pass the session middleware; with Fastify, ask with request.raw')
}

/** Every way to answer comes by `writeHead`. Headers that it is given itself are set first, so that none hides another. */
function beforeHeaders(answer: OutgoingAnswer, act: () => void): void {
  const writeHead = answer.writeHead.bind(answer)
  answer.writeHead = (...args) => {
    answer.writeHead = writeHead
    if (answer.headersSent) return writeHead(...args)
    const given = args.at(-1)
    const hasHeaders = typeof given === 'object' && given !== null
    if (hasHeaders) for (const [name, value] of headersOf(given)) answer.setHeader(name, value)
    act()
    return writeHead(...(hasHeaders ? args.slice(0, -1) : args))
  }
}

/** Of an object, or of a flat list in which names and values take turns; a name that comes again has several values. */
function headersOf(given: object): Map<string, string | readonly string[]> {
  const pairs = Array.isArray(given)
    ? Array.from({ length: given.length / 2 }, (_, n) => [given[2 * n], given[2 * n + 1]] as const)
    : Object.entries(given)
  const headers = new Map<string, string | readonly string[]>()
  for (const [name, value] of pairs) {
    if (value === undefined) continue
    const before = headers.get(String(name))
    headers.set(String(name), before === undefined ? valueOf(value) : [...listOf(before), ...listOf(valueOf(value))])
  }
  return headers
}

function valueOf(value: unknown): string | readonly string[] {
  return Array.isArray(value) ? value.map(String) : String(value)
}

function listOf(value: number | string | readonly string[] | undefined): string[] {
  if (value === undefined) return []
  return typeof value === 'object' ? [...value] : [String(value)]
}

function textOf(header: string | readonly string[] | undefined): string | undefined {
  return header === undefined || typeof header === 'string' ? header : header.join(', ')
}

/**
 * `no-store` and `private` keep an answer out of shared caches only where they stand alone: with names of headers
 * (RFC 9111, section 5.2.2) they speak of those, and the rest may be kept. `no-cache` lets it be kept and asks before use.
 */
function keepPrivate(answer: OutgoingAnswer): void {
  const directives = directivesOf(listOf(answer.getHeader('Cache-Control')).join(', '))
  const names = directives.map((directive) => directive.toLowerCase())
  if (names.includes('no-store') || (names.includes('private') && !names.some(isShared))) return
  const kept = directives.filter((_, at) => !isShared(names[at] ?? '') && !/^private\b/.test(names[at] ?? ''))
  answer.setHeader('Cache-Control', ['private', ...kept].join(', '))
}

function isShared(directive: string): boolean {
  return /^(public|s-maxage)\s*(=|$)/.test(directive)
}

/** A quoted string may hold commas. */
function directivesOf(header: string): string[] {
  const parts = header.match(/(?:"(?:\\.|[^"\\])*"|[^,])+/g) ?? []
  return parts.map((part) => part.trim()).filter((part) => part !== '')
}
