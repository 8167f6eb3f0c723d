import type { ErrorCode } from '../base/errors.ts'

/**
 * A session on its way through programs that have no keys: a browser, a server that renders pages, a service in between.
 *
 * The simple way keeps the last token that came back. Two calls at once then answer with two tokens, each of which has seen
 * what the other has not, and whichever arrives last wipes out the other: the page that follows does not show what was
 * saved a moment ago. Only a gateway can join tokens, for only it can sign. So a hop carries a set:
 *
 *   H1  What an answer gives takes the place of what its request carried, since it contains that, and of nothing else. So
 *       what calls at the same time give is all kept, in whatever order they end.
 *   H2  A request carries the whole set. The gateway joins it, and answers with one token again.
 *   H3  A token goes to the origins that are named, and to no other, wherever a redirect leads; and none is taken from
 *       another.
 *   H4  Nothing is dropped in silence. Where a token was and is not handed on, it is counted and told, with the reason.
 *   H5  What a gateway refuses is let go of: its answer told the user what is gone, and the next request begins anew.
 *
 * Owns: the set (this file), the request of a hop (`session-carrier.ts`), its way out (`session-fetch.ts`,
 * `session-redirect.ts`) and its way back (`session-middleware.ts`, `session-cookies.ts`). Does not own: what is in a
 * token. Talks to: gateways over HTTP. Runs in a browser as well as in Node, and needs nothing of either.
 */

/** Tokens of one session, each of which has seen something that the others may not have seen. */
export type Carried = readonly string[]

/** Both ways. A request may carry several tokens, with commas between them. */
export const sessionHeader = 'Holdfast-Session'

/** In an answer that refused the session's tokens: the code of the error. */
export const refusedHeader = 'Holdfast-Session-Refused'

export const nothingCarried: Carried = []

/** Errors behind which a session goes on without the tokens that were sent (H5). */
export const endsSession: ReadonlySet<ErrorCode> = new Set<ErrorCode>([
  'write_lost',
  'history_rewritten',
  'history_changed',
  'token_malformed',
  'token_forged',
  'token_foreign',
  'token_expired',
  'token_shard_unknown',
])

/** The tokens of a header; none of a header that is not there. */
export function parseCarried(header: string | null | undefined): Carried {
  return together((header ?? '').split(',').map((token) => token.trim()))
}

/** The header; undefined where nothing is carried, for an empty one is no header. */
export function formatCarried(carried: Carried): string | undefined {
  return carried.length === 0 ? undefined : carried.join(', ')
}

/** H1. */
export function afterAnswer(carried: Carried, sent: Carried, received: Carried): Carried {
  return together([...carried.filter((token) => !sent.includes(token)), ...received])
}

/** Each once. */
export function together(tokens: readonly string[]): Carried {
  return [...new Set(tokens)].filter((token) => token !== '')
}

/** Why a token that was there is not handed on. */
export type LossReason =
  /** A gateway's answer to a request with tokens has none: something in between strips headers, or does not expose them. */
  | 'answer without token'
  /** Work that went on after the answer had left learned more. */
  | 'answer already sent'
  /** The browser sent fewer cookies than it was given. */
  | 'cookie missing'
  /** The browser sent a cookie that holds no token, or one of another name. It is deleted. */
  | 'cookie malformed'
  /** A gateway refused the tokens, and has told why. */
  | 'refused'

export interface Loss {
  readonly reason: LossReason
  /** How many tokens. */
  readonly tokens: number
  /** Of a refusal the code, e.g. `write_lost`; of an answer where it came from, without path and query. */
  readonly detail: string
}

export type OnLoss = (loss: Loss) => void
