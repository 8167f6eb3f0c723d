import type { OnLoss } from './hops.ts'
import { parseCarried, refusedHeader, sessionHeader } from './hops.ts'
import { SessionCarrier } from './session-carrier.ts'

/** As much of `fetch` as is used: that of the browser, of Node, or of a test. */
export type Fetch = (input: string | URL | Request, init?: RequestInit) => Promise<Response>

export interface SessionFetchOptions {
  /**
   * Where tokens go: origins such as `https://gateway.internal:7400`, in a browser also `location.origin`. Requests to
   * others pass as they are (H3).
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
  return async (input, init) => {
    const { origin } = new URL(input instanceof Request ? input.url : input, base)
    if (!origins.has(origin)) return send(input, init)
    const headers = new Headers(init?.headers ?? (input instanceof Request ? input.headers : undefined))
    // Whoever sets the header himself takes part in the session all the same.
    carrier.include(parseCarried(headers.get(sessionHeader)))
    const { session, carried: sent } = carrier
    if (session !== undefined) headers.set(sessionHeader, session)
    const answer = await send(input, { ...init, headers })
    const refusal = answer.headers.get(refusedHeader)
    const received = parseCarried(answer.headers.get(sessionHeader))
    if (refusal !== null) carrier.refused(sent, refusal)
    // A failure has no token, and takes none away.
    else if (received.length === 0 && answer.ok) carrier.lost('answer without token', sent, origin)
    carrier.answered(sent, received)
    return answer
  }
}

function pageAddress(): string | undefined {
  return (globalThis as { readonly location?: { readonly href: string } }).location?.href
}
