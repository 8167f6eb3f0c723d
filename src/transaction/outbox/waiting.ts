import { type Hlc, hlcZero, toHlc } from '../../hlc/hlc.ts'
import type { Connection } from '../../postgres/connection.ts'
import { readDeliveries } from './delivery-journal.ts'
import { firstCommitted, type OutboxCursor, outboxStart, readEventPlaces } from './outbox-store.ts'

/** Events of a shard that were committed and that its journal does not call delivered. */
export interface WaitingEvents {
  readonly events: number
  /** Whether the count was given up there. */
  readonly isMore: boolean
  /** When the first of them was committed. */
  readonly since: Hlc
}

const pageSize = 1_000
const countedMax = 10_000

/**
 * Null while none waits. From rows and journal alone, and so also where nobody dispatches. Rows are never taken out of the outbox;
 * events leave in their order, so that what waits lies behind the first that was tried and not delivered, or behind the last
 * that was delivered. One that was tried in a history that was left has no row here: it waits for nobody, and nothing is
 * counted from there.
 */
export async function waitingEvents(connection: Connection, journalPath: string): Promise<WaitingEvents | null> {
  const from = await firstUndelivered(connection, journalPath)
  const delivered = await deliveredSince(journalPath, from)
  let events = 0
  let since: Hlc | undefined
  let after: OutboxCursor = { ...outboxStart, commitTimestamp: from }
  for (;;) {
    const page = await readEventPlaces(connection, after, pageSize)
    for (const event of page) {
      after = event
      if (delivered.has(event.eventId)) continue
      events += 1
      since ??= event.commitTimestamp
    }
    const isMore = events >= countedMax
    if (page.length === pageSize && !isMore) continue
    return since === undefined ? null : { events, isMore, since }
  }
}

async function firstUndelivered(connection: Connection, journalPath: string): Promise<Hlc> {
  const tried = new Set<string>()
  let last = hlcZero
  for await (const { eventId, state, commitTimestamp } of readDeliveries(journalPath)) {
    if (state !== 'delivered') tried.add(eventId)
    else {
      const at = toHlc(BigInt(commitTimestamp))
      tried.delete(eventId)
      if (at > last) last = at
    }
  }
  const first = await firstCommitted(connection, [...tried])
  return first === null || first > last ? last : first
}

async function deliveredSince(journalPath: string, from: Hlc): Promise<ReadonlySet<string>> {
  const delivered = new Set<string>()
  for await (const { eventId, state, commitTimestamp } of readDeliveries(journalPath)) {
    if (state === 'delivered' && BigInt(commitTimestamp) >= from) delivered.add(eventId)
  }
  return delivered
}
