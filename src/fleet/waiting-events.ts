import { formatWallMs } from '../base/clock.ts'
import type { ShardName } from '../directory/topology.ts'
import { wallMsOfHlc } from '../hlc/hlc.ts'
import { Connection } from '../postgres/connection.ts'
import { primaryTarget } from '../transaction/environment.ts'
import { waitingEvents } from '../transaction/outbox/waiting.ts'
import type { GatewayParts } from './gateway-parts.ts'
import { journalPath } from './journal-path.ts'

/** Events of one shard that are on their way to the webhook. */
export interface WaitingView {
  readonly shard: string
  readonly events: number
  /** Whether there are more than were counted. */
  readonly isMore: boolean
  /** When the first was committed. */
  readonly since: string
}

const connectWithinMs = 5_000

/** Of the shards whose primaries answer: the others are told of by the status. None where events stay in the outbox. */
export async function waitingViews(parts: GatewayParts): Promise<WaitingView[]> {
  if (parts.config.outbox === null) return []
  const asked = await Promise.allSettled([...parts.config.shards.keys()].map((shard) => waitingOn(parts, shard)))
  return asked.flatMap((answer) => (answer.status === 'fulfilled' ? answer.value : []))
}

async function waitingOn({ environment, home }: GatewayParts, shard: ShardName): Promise<WaitingView[]> {
  const connection = await Connection.connect(primaryTarget(environment, shard), connectWithinMs)
  try {
    const waiting = await waitingEvents(connection, journalPath(home, shard))
    if (waiting === null) return []
    const { events, isMore, since } = waiting
    return [{ shard, events, isMore, since: formatWallMs(wallMsOfHlc(since)) }]
  } finally {
    connection.release()
  }
}
