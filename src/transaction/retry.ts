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
  if (code === 'serialization_failure' && attempts <= serializationRetriesMax) {
    return { kind: 'pause', pauseMsMax: Math.min(200, 10 * 2 ** (attempts - 1)) }
  }
  return { kind: 'give up' }
}
