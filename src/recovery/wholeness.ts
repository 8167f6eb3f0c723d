import { present } from '../base/assert.ts'
import type { ShardName, TransactionId } from '../directory/topology.ts'

/** The global transactions that a shard shows: those at home here, and the branches of others. */
export interface GlobalTransactions {
  readonly homes: readonly { readonly transactionId: TransactionId; readonly participants: readonly ShardName[] }[]
  readonly branches: readonly { readonly transactionId: TransactionId; readonly home: ShardName }[]
}

/**
 * R2: a global transaction is there with its home and on all of its participants, or not at all. Each shard by itself cannot tell:
 * where one was lost before its part was archived, the others still show theirs. Says of each what is missing.
 */
export function findHalves(shards: ReadonlyMap<ShardName, GlobalTransactions>): string[] {
  const homes = new Map([...shards].map(([shard, { homes: here }]) => [shard, idsOf(here)]))
  const branches = new Map([...shards].map(([shard, { branches: here }]) => [shard, idsOf(here)]))
  const halves: string[] = []
  for (const [shard, here] of shards) {
    for (const { transactionId, home } of here.branches) {
      // A shard that the fleet has no more has nothing to hold it against.
      if (!shards.has(home) || present(homes.get(home), 'of every shard').has(transactionId)) continue
      halves.push(`${transactionId} is on ${shard} and not at its home ${home}`)
    }
    for (const { transactionId, participants } of here.homes) {
      for (const participant of participants.filter((name) => shards.has(name))) {
        if (present(branches.get(participant), 'of every shard').has(transactionId)) continue
        halves.push(`${transactionId} is at its home ${shard} and not on ${participant}`)
      }
    }
  }
  return halves
}

function idsOf(transactions: readonly { readonly transactionId: TransactionId }[]): Set<TransactionId> {
  return new Set(transactions.map(({ transactionId }) => transactionId))
}
