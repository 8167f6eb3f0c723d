import { unreachable } from '../base/assert.ts'
import type { ErrorCategory, ErrorCode, Retry } from '../base/errors.ts'
import { errorTable, failureIn, HoldfastError } from '../base/errors.ts'

/**
 * Errors as problem documents (RFC 9457). A caller decides by `code`, `category` and `retry`, as in the library.
 */
export interface Problem {
  /** A name, not an address. */
  readonly type: `urn:holdfast:error:${ErrorCode}`
  readonly title: string
  readonly status: number
  readonly detail: string
  readonly code: ErrorCode
  readonly category: ErrorCategory
  readonly retry: Retry
  readonly hint?: string
  /** Ids and positions, as in `HoldfastError.detail`. */
  readonly context: Readonly<Record<string, unknown>>
}

export const problemContentType = 'application/problem+json'

/**
 * An ambiguous outcome is a 500. 502, 503 and 504 say as much, but proxies and client libraries repeat those by
 * themselves, and this one must be asked about, not repeated.
 */
export function statusOf(category: ErrorCategory): number {
  switch (category) {
    case 'invalid':
      return 400
    case 'denied':
      return 403
    case 'not_found':
      return 404
    case 'conflict':
      return 409
    case 'check_failed':
      return 422
    case 'unavailable':
      return 503
    case 'ambiguous':
    case 'internal':
      return 500
    default:
      return unreachable(category)
  }
}

/** The problem of any error. A plain error is a defect of ours: nothing of its inside is told. */
export function problemOf(error: unknown, status?: number): Problem {
  const told =
    failureIn(error) ?? new HoldfastError('internal', 'the request failed on a defect; the log of the gateway has it')
  return {
    type: `urn:holdfast:error:${told.code}`,
    title: errorTable[told.code].meaning,
    status: status ?? statusOf(told.category),
    detail: told.message,
    code: told.code,
    category: told.category,
    retry: told.retry,
    ...(told.hint === undefined ? {} : { hint: told.hint }),
    context: told.detail,
  }
}

/**
 * W1: what a handler answers with a status of its own that is no success. It is best a `HoldfastError`, whose category then has
 * the status. Of other bodies the fields are kept as `context`, unless the status calls the answer a defect (W3).
 */
export function problemOfAnswer(status: number, body: unknown): Problem {
  const failure = failureIn(body)
  if (failure !== undefined) return problemOf(failure)
  const code = codeOf(status)
  const bare = `the application answered with status ${status}`
  if (code === 'internal') return problemOf(new HoldfastError(code, bare), status)
  const fields: Readonly<Record<string, unknown>> = typeof body === 'object' && body !== null ? { ...body } : {}
  const told = [fields['detail'], fields['title'], body].find((text) => typeof text === 'string' && text !== '')
  return problemOf(new HoldfastError(code, typeof told === 'string' ? told : bare, { detail: fields }), status)
}

/** W2: 502, 503 and 504 are the application's word that nothing was done, as 429 is; it throws what it does not know the outcome of. */
function codeOf(status: number): ErrorCode {
  switch (status) {
    case 401:
    case 403:
      return 'application_denied'
    case 404:
      return 'unknown_subject'
    case 409:
      return 'transaction_refused'
    case 408:
    case 425:
    case 429:
    case 502:
    case 503:
    case 504:
      return 'application_unavailable'
    default:
      return status >= 500 ? 'internal' : 'argument_invalid'
  }
}

const retryAfterSecondsDefault = 1

/** Seconds for `Retry-After`, where waiting helps. */
export function retryAfterSeconds(problem: Problem): number | undefined {
  if (problem.category !== 'unavailable' || problem.retry !== 'safe') return undefined
  const waitMs = problem.context['retryAfterMs']
  return typeof waitMs === 'number' && Number.isFinite(waitMs)
    ? Math.max(1, Math.ceil(waitMs / 1_000))
    : retryAfterSecondsDefault
}
