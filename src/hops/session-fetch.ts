import type { Carried, OnLoss } from './hops.ts'
import { parseCarried, refusedHeader, sessionHeader } from './hops.ts'
import { BodyCopy } from './body-copy.ts'
import { SessionCarrier } from './session-carrier.ts'
import type { Leg } from './session-redirect.ts'
import { methodOf, redirectOf, redirectsMax } from './session-redirect.ts'

/** As much of `fetch` as is used: that of the browser, of Node, or of a test. */
export type Fetch = (input: string | URL | Request, init?: RequestInit) => Promise<Response>

export interface SessionFetchOptions {
  /**
   * Where tokens go: origins such as `https://gateway.internal:7400`, in a browser also `location.origin`. Requests to
   * others pass without, and what their answers say of a session is not believed (H3).
   */
  readonly origins: readonly string[]
  /** What is carried; of a middleware, the carrier of the request that is being answered. A new one when left out. */
  readonly carrier?: SessionCarrier | undefined
  /** That of the platform when left out. */
  readonly fetch?: Fetch | undefined
  /** Called for each loss, where no carrier with a listener of its own was given. */
  readonly onLoss?: OnLoss | undefined
  /** What relative addresses are relative to. In a browser the page, when left out. */
  readonly base?: string | undefined
}

/**
 * A `fetch` that carries the session: every request to a named origin has the tokens, and what its answer gives is carried
 * from then on. Answers may come in any order. It throws what the `fetch` below throws; the tokens stay then.
 *
 * Redirects are followed one by one, and each origin on the way is one that is named or is not. A browser does not show
 * where a redirect leads: there a redirect of a named origin is a `TypeError`, unless `redirect` says `manual`.
 *
 * ```ts
 * const carrier = new SessionCarrier({ onLoss: ({ reason }) => lost.inc({ reason }) })
 * const fetch = sessionFetch({ origins: ['https://payroll.example'], carrier })
 * await Promise.all([fetch('https://payroll.example/approve', { method: 'POST' }), fetch('https://payroll.example/runs')])
 * ```
 */
export function sessionFetch(options: SessionFetchOptions): Fetch {
  const { fetch: send = globalThis.fetch, base = pageAddress() } = options
  const carrier = options.carrier ?? new SessionCarrier({ onLoss: options.onLoss })
  const origins = new Set(options.origins.map((origin) => new URL(origin).origin))

  /** H3: one request to one origin, and its answer. */
  async function ask({ url: { origin }, headers: plain }: Leg, sendWith: (headers: Headers) => Promise<Response>) {
    if (!origins.has(origin)) return sendWith(plain)
    const headers = new Headers(plain)
    const { session, carried: sent } = carrier
    if (session !== undefined) headers.set(sessionHeader, session)
    const answer = await sendWith(headers)
    learn(carrier, sent, answer, origin)
    return answer
  }

  return async (input, init) => {
    const request = input instanceof Request ? input : undefined
    const headers = new Headers(init?.headers ?? request?.headers)
    // Whoever sets the header himself takes part in the session all the same, and with the named origins alone.
    const own = headers.get(sessionHeader)
    if (own !== null) carrier.include(parseCarried(own))
    headers.delete(sessionHeader)
    const url = new URL(input instanceof Request ? input.url : input, base)
    if (!origins.has(url.origin)) return send(input, own === null ? init : { ...init, headers })

    const first: Leg = { url, headers, method: methodOf(init?.method ?? request?.method), body: bodyOf(request, init) }
    const wanted = init?.redirect ?? request?.redirect ?? 'follow'
    if (wanted !== 'follow') return ask(first, (headers) => send(input, { ...init, headers }))
    const sending = new Sending(input, init)
    try {
      const answer = await ask(first, (headers) => send(...sending.first(headers)))
      return await follow(first, answer, (leg) =>
        ask(leg, async (headers) => send(...(await sending.next(leg, headers)))),
      )
    } finally {
      sending.end()
    }
  }
}

function learn(carrier: SessionCarrier, sent: Carried, answer: Response, origin: string): void {
  const refusal = answer.headers.get(refusedHeader)
  const received = parseCarried(answer.headers.get(sessionHeader))
  if (refusal !== null) carrier.refused(sent, refusal)
  // Too many for a server on the way: the next request would fail in the same way.
  else if (answer.status === 431) carrier.refused(sent, 'headers too large')
  // A failure has no token, and takes none away. What a browser hides of a redirect is lost.
  else if (received.length === 0 && (answer.ok || answer.type === 'opaqueredirect')) {
    carrier.lost('answer without token', sent, origin)
  }
  carrier.answered(sent, received)
}

async function follow(first: Leg, answered: Response, ask: (leg: Leg) => Promise<Response>): Promise<Response> {
  let [leg, answer] = [first, answered]
  for (let redirects = 0; ; redirects += 1) {
    if (answer.type === 'opaqueredirect') {
      throw new TypeError(`${leg.url.origin} redirects, and a browser does not show whether to an origin that is named`)
    }
    const next = redirectOf(leg, answer)
    if (next === undefined)
      return redirects === 0 ? answer : Object.defineProperty(answer, 'redirected', { value: true })
    if (redirects === redirectsMax) throw new TypeError(`${first.url.origin} redirects more than ${redirectsMax} times`)
    await answer.body?.cancel()
    leg = next
    answer = await ask(leg)
  }
}

/** What goes to `fetch` for each request of a chain. A body of a `Request` is sent again from a copy. */
class Sending {
  readonly #input: string | URL | Request
  readonly #init: RequestInit | undefined
  readonly #sent: string | URL | Request
  /** Of a body of its own; one of `init` takes its place. */
  readonly #copy: BodyCopy | undefined

  constructor(input: string | URL | Request, init: RequestInit | undefined) {
    this.#input = input
    this.#init = init
    const isCopied = input instanceof Request && input.body !== null && init?.body == null
    this.#sent = isCopied ? input.clone() : input
    this.#copy = isCopied && input.body !== null ? new BodyCopy(input.body) : undefined
  }

  first(headers: Headers): Parameters<Fetch> {
    return [this.#sent, { ...this.#init, headers, redirect: 'manual' }]
  }

  async next({ url, method, body }: Leg, headers: Headers): Promise<Parameters<Fetch>> {
    const { body: given, ...init } = { ...(this.#input instanceof Request ? partsOf(this.#input) : {}), ...this.#init }
    const again = body === 'none' ? undefined : ((await this.#copy?.whole()) ?? given)
    return [url, { ...init, ...(again == null ? {} : { body: again }), method, headers, redirect: 'manual' }]
  }

  end(): void {
    this.#copy?.end()
  }
}

/** All but where it goes, how, and with what. */
function partsOf({ signal, credentials, mode, integrity, keepalive, referrerPolicy }: Request): RequestInit {
  return { signal, credentials, mode, integrity, keepalive, referrerPolicy }
}

function bodyOf(request: Request | undefined, init: RequestInit | undefined): Leg['body'] {
  const body = init?.body
  if (body == null) return request === undefined || request.body === null ? 'none' : 'repeatable'
  return typeof body === 'object' && Symbol.asyncIterator in body ? 'stream' : 'repeatable'
}

function pageAddress(): string | undefined {
  return (globalThis as { readonly location?: { readonly href: string } }).location?.href
}
