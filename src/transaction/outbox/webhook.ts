import type { Clock } from '../../base/clock.ts'
import { formatHlc } from '../../hlc/hlc.ts'
import type { OutboxEvent } from './outbox-store.ts'

/** `refused`: an answer outside the 200s. `unreachable`: no answer; the event may have arrived all the same. */
export type WebhookAnswer =
  | { readonly kind: 'accepted' }
  | { readonly kind: 'refused' | 'unreachable'; readonly reason: string }

/** Sends one event and waits for the answer. Redirects are refusals: an effect goes where the configuration says. */
export async function postEvent(
  url: string,
  event: OutboxEvent,
  clock: Clock,
  answerWithinMs: number,
): Promise<WebhookAnswer> {
  const deadline = new AbortController()
  const answered = new AbortController()
  const expiry = clock.sleep(answerWithinMs, answered.signal).then(
    () => deadline.abort(new Error(`no answer within ${answerWithinMs} ms`)),
    () => undefined,
  )
  try {
    const response = await fetch(url, {
      method: 'POST',
      headers: { 'content-type': 'application/json', 'idempotency-key': event.eventId },
      body: bodyOf(event),
      redirect: 'manual',
      signal: deadline.signal,
    })
    await response.body?.cancel()
    return response.ok ? { kind: 'accepted' } : { kind: 'refused', reason: `answered ${response.status}` }
  } catch (error) {
    return { kind: 'unreachable', reason: reasonOf(error) }
  } finally {
    answered.abort()
    await expiry
  }
}

/** The payload travels as PostgreSQL has it, so that no number in it is rounded on the way. */
function bodyOf(event: OutboxEvent): string {
  const { eventId, name, tenant, transactionId, commitTimestamp } = event
  const head = JSON.stringify({ id: eventId, name, tenant, transactionId, commitTimestamp: formatHlc(commitTimestamp) })
  return `${head.slice(0, -1)},"payload":${event.payload}}`
}

/** `fetch` says only "fetch failed"; what happened is in its cause. */
function reasonOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error)
  return error.cause instanceof Error ? `${error.message}: ${error.cause.message}` : error.message
}
