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

/** Of one shard: reads its global transactions, and finds its ids, in their order. Null is an end that there is not. */
export interface GlobalsReader {
  /** Those behind the one id, up to the other. */
  readonly read: (behind: TransactionId | null, through: TransactionId | null) => Promise<GlobalTransactions>
  /** The id so many behind this one. */
  readonly findBehind: (behind: TransactionId | null, count: number) => Promise<TransactionId | null>
}

const stretchMax = 20_000
/** How many halves are named. */
const namesMax = 5

/** Over shards that hold more than fits in memory: the same stretch of ids of each at once. */
export async function findAllHalves(
  shards: ReadonlyMap<ShardName, GlobalsReader>,
  stretch = stretchMax,
): Promise<{ count: number; names: readonly string[] }> {
  const names: string[] = []
  let count = 0
  let behind: TransactionId | null = null
  do {
    const through = await findEnd(shards, behind, stretch)
    const globals = new Map<ShardName, GlobalTransactions>()
    for (const [shard, { read }] of shards) globals.set(shard, await read(behind, through))
    const halves = findHalves(globals)
    count += halves.length
    names.push(...halves.slice(0, namesMax - names.length))
    behind = through
  } while (behind !== null)
  return { count, names }
}

/** The end of a stretch in which no shard has more; null where what is left of each is less. */
async function findEnd(
  shards: ReadonlyMap<ShardName, GlobalsReader>,
  behind: TransactionId | null,
  stretch: number,
): Promise<TransactionId | null> {
  let least: TransactionId | null = null
  for (const { findBehind } of shards.values()) {
    const end = await findBehind(behind, stretch)
    if (end !== null && (least === null || end < least)) least = end
  }
  return least
}

function idsOf(transactions: readonly { readonly transactionId: TransactionId }[]): Set<TransactionId> {
  return new Set(transactions.map(({ transactionId }) => transactionId))
}
