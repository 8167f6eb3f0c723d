import type { ErrorCode } from '../base/errors.ts'

/** What follows a failed attempt, in which nothing was written. */
export type NextAttempt =
  | { readonly kind: 'give up' }
  /** Load directory and topology anew, then run again: what was routed by may be old. */
  | { readonly kind: 'refresh' }
  /** Wait a random time up to this, then run again. */
  | { readonly kind: 'pause'; readonly pauseMsMax: number }

const stale: ReadonlySet<ErrorCode> = new Set<ErrorCode>([
  'placement_stale',
  'placement_denied',
  'shard_fenced',
  'node_unavailable',
  'unknown_tenant',
  // Proven: no decision was sent, or home said no, or what was asked for after a lost answer is ABORTED behind a barrier.
  'transaction_aborted',
])

/** Others were in the way, a migration among them: a pause of a random length lets one of them through. */
const contended: ReadonlySet<ErrorCode> = new Set<ErrorCode>([
  'serialization_failure',
  'lock_timeout',
  'statement_outdated',
])

/** `code` is why the attempt was bound to fail; undefined when the caller's function failed by itself. */
export function nextAttempt(
  code: ErrorCode | undefined,
  attempts: number,
  refreshesBefore: number,
  serializationRetriesMax: number,
): NextAttempt {
  if (code === undefined) return { kind: 'give up' }
  if (stale.has(code)) return refreshesBefore === 0 ? { kind: 'refresh' } : { kind: 'give up' }
  if (contended.has(code) && attempts <= serializationRetriesMax) {
    return { kind: 'pause', pauseMsMax: Math.min(200, 10 * 2 ** (attempts - 1)) }
  }
  return { kind: 'give up' }
}
