import type { WaitingView } from '../../fleet/waiting-events.ts'
import type { Finding } from './doctor.ts'

/** More than the longest pause between two attempts, and than a failover takes. */
const waitingForMsMin = 60_000

/** Effects that were committed and that nobody has had for long: the receiver refuses them, or is not there, or nobody sends. */
export function waitingFindings(waiting: readonly WaitingView[], nowMs: number): Finding[] {
  return waiting
    .filter(({ since }) => nowMs - Date.parse(since) >= waitingForMsMin)
    .map(({ shard, events, isMore, since }) => ({
      what: 'outbox',
      status: 'warning',
      detail: `${events}${isMore ? ' events or more' : events === 1 ? ' event' : ' events'} of ${shard} not delivered, the first committed at ${since}: look at the receiver, and at a gateway of that jurisdiction`,
    }))
}
