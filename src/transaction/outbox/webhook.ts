import type { Clock } from '../../base/clock.ts'
import { formatHlc } from '../../hlc/hlc.ts'
import type { OutboxEvent } from './outbox-store.ts'

/** `refused`: an answer outside the 200s. `unreachable`: no answer; the event may have arrived all the same. */
export type WebhookAnswer =
  | { readonly kind: 'accepted' }
  | { readonly kind: 'refused' | 'unreachable'; readonly reason: string }

/** Those that `fetch` connects to for nobody, of https://fetch.spec.whatwg.org/#port-blocking. */
export const blockedPorts: ReadonlySet<number> = new Set([
  1, 7, 9, 11, 13, 15, 17, 19, 20, 21, 22, 23, 25, 37, 42, 43, 53, 69, 77, 79, 87, 95, 101, 102, 103, 104, 109, 110,
  111, 113, 115, 117, 119, 123, 135, 137, 139, 143, 161, 179, 389, 427, 465, 512, 513, 514, 515, 526, 530, 531, 532,
  540, 548, 554, 556, 563, 587, 601, 636, 989, 990, 993, 995, 1719, 1720, 1723, 2049, 3659, 4045, 4190, 5060, 5061,
  6000, 6566, 6665, 6666, 6667, 6668, 6669, 6679, 6697, 10080,
])

export type WebhookFault = 'has user info' | 'has a blocked port'

/** Why no event could ever be sent to an address; null for one that may be sent to. */
export function webhookFault(url: string): WebhookFault | null {
  const { username, password, port } = new URL(url)
  if (username !== '' || password !== '') return 'has user info'
  return blockedPorts.has(Number(port)) ? 'has a blocked port' : null
}

/** Sends one event and waits for the answer. Redirects are refusals: an effect goes where the configuration says. */
export async function postEvent(
  url: string,
  event: OutboxEvent,
  clock: Clock,
  answerWithinMs: number,
): Promise<WebhookAnswer> {
  const deadline = new AbortController()
  const answered = new AbortController()
  const late = new Error(`no answer within ${answerWithinMs} ms`)
  const expiry = clock.sleep(answerWithinMs, answered.signal).then(
    () => deadline.abort(late),
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
    return { kind: 'unreachable', reason: reasonOf(error, late) }
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

/**
 * By its code or its name. What `fetch` and the resolver say in words may hold the address, which is a secret of the receiver's, and
 * a journal keeps what it was told for ever.
 */
function reasonOf(error: unknown, late: Error): string {
  if (error === late) return late.message
  const { cause } = error instanceof Error ? error : { cause: undefined }
  for (const one of [cause, error]) {
    if (one instanceof Error && 'code' in one && typeof one.code === 'string') return `no answer: ${one.code}`
  }
  return `no answer: ${error instanceof Error ? error.name : 'unknown'}`
}
