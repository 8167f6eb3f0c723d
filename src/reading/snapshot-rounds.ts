import type { ShardName, TransactionId } from '../directory/topology.ts'
import type { Hlc } from '../hlc/hlc.ts'
import { hlcZero } from '../hlc/hlc.ts'
import type { GlobalTransaction } from './read-store.ts'

/**
 * When snapshots of several shards show no global transaction in part.
 *
 * At or below the least closed timestamp of the snapshots nothing can be missing: every shard shows all of it. Above that
 * each snapshot lists the global transactions that it shows, with the shards that they wrote. One that a snapshot shows
 * and another, of a shard that it wrote, does not is a fracture: that other snapshot was taken too early.
 */
export interface SnapshotView {
  readonly closedTimestamp: Hlc
  /** The global transactions that the snapshot shows, all of them above `completeAbove`. */
  readonly shown: readonly GlobalTransaction[]
}

/** What a snapshot that was taken too early has to show when it is taken again. */
export type Fractures = ReadonlyMap<ShardName, readonly GlobalTransaction[]>

/** Above this the views of one round must list what they show. Zero where there are none. */
export function leastClosed(closedTimestamps: Iterable<Hlc>): Hlc {
  const [first = hlcZero, ...others] = closedTimestamps
  return others.reduce((least, timestamp) => (timestamp < least ? timestamp : least), first)
}

/** Empty when the snapshots together are a snapshot. */
export function findFractures(views: ReadonlyMap<ShardName, SnapshotView>): Fractures {
  const shownBy = new Map<ShardName, Set<TransactionId>>()
  for (const [shard, { shown }] of views) shownBy.set(shard, new Set(shown.map(({ transactionId }) => transactionId)))
  const missing = new Map<ShardName, Map<TransactionId, GlobalTransaction>>()
  for (const { shown } of views.values()) {
    for (const transaction of shown) {
      for (const shard of transaction.shards) {
        const view = views.get(shard)
        if (view === undefined || shownBy.get(shard)?.has(transaction.transactionId) === true) continue
        // What a view does not list may lie below its list; what is closed there is shown.
        if (transaction.commitTimestamp <= view.closedTimestamp) continue
        const ofShard = missing.get(shard) ?? new Map<TransactionId, GlobalTransaction>()
        missing.set(shard, ofShard.set(transaction.transactionId, transaction))
      }
    }
  }
  return new Map([...missing].map(([shard, transactions]) => [shard, [...transactions.values()]]))
}

/** Whether a fracture on a shard is a branch that may have to be settled; at its home a transaction needs nothing. */
export function isBranchOn(shard: ShardName, transaction: GlobalTransaction): boolean {
  return transaction.shards[0] !== shard
}
