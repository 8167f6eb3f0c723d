import { nameOf, stampedId } from '../archive/redo-transaction.ts'
import type { ShardName } from '../directory/topology.ts'
import { Connection } from '../postgres/connection.ts'
import { untilAborted } from '../postgres/postgres.ts'
import type { ConnectionTarget } from '../postgres/statement.ts'
import type { Differing } from './comparison-store.ts'
import * as store from './comparison-store.ts'
import type { Wanted } from './cut.ts'
import { isWanted } from './cut.ts'
import { positionOf } from './position.ts'
import type { ShardHistoryPlan } from './restore-plan.ts'
import type { GlobalsReader } from './wholeness.ts'
import { findAllHalves } from './wholeness.ts'

/** Compares restored servers with their archives, and with each other. Neither all of the one nor of the other fits in memory. */

const connectWithinMs = 10_000
/** Ids that are sent at once. */
const stretchMax = 10_000

/** R2, as ids: what the restored shard shows against what the archive says it must. The server compares them. */
export async function compareTransactions(
  admin: Connection,
  { history, stop }: Pick<ShardHistoryPlan, 'history' | 'stop'>,
  wanted: Wanted,
): Promise<{ missing: Differing; unexpected: Differing }> {
  await store.beginComparison(admin)
  let stretch: store.Archived[] = []
  for await (const transaction of history.read()) {
    const id = stampedId(transaction.identity)
    if (id === null) continue
    stretch.push({ id, isWanted: isWanted(positionOf(transaction), nameOf(transaction), wanted) })
    if (stretch.length < stretchMax) continue
    await store.addArchived(admin, stretch)
    stretch = []
  }
  await store.addArchived(admin, stretch)
  await store.countArchived(admin)
  const { redo, survey } = history
  const missing = await store.findMissing(admin)
  const unexpected = await store.findUnexpected(admin, {
    newestBefore: redo.clockAtFrom ?? survey.firstStamp,
    // The log may go further than the stream, to which nobody has looked.
    isBeyondStream: wanted.bound.kind === 'end' && stop.kind === 'after',
  })
  await store.endComparison(admin)
  return { missing, unexpected }
}

/** R2: which global transactions lack a part. */
export async function compareShards(
  targets: ReadonlyMap<ShardName, ConnectionTarget>,
  signal?: AbortSignal,
): Promise<Differing> {
  const connections: Connection[] = []
  const shards = new Map<ShardName, GlobalsReader>()
  try {
    for (const [shard, target] of targets) {
      const connection = await Connection.connect(target, connectWithinMs)
      connections.push(connection)
      shards.set(shard, {
        read: (behind, through) => store.readGlobals(connection, behind, through),
        findBehind: (behind, count) => store.findBehind(connection, behind, count),
      })
    }
    return await untilAborted(signal, connections, () => findAllHalves(shards))
  } finally {
    for (const connection of connections) connection.release()
  }
}
