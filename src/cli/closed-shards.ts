import type { TopologyDocument } from '../fleet/topology-store.ts'

/** A shard that takes no traffic, in words for who can do something about it. */

export interface ClosedShard {
  readonly shard: string
  readonly state: 'fenced' | 'lost'
}

export function closedShards({ shards }: Pick<TopologyDocument, 'shards'>): ClosedShard[] {
  return Object.entries(shards).flatMap(([shard, { state }]) => (state === 'open' ? [] : [{ shard, state }]))
}

export function describeClosed({ shard, state }: ClosedShard): string {
  return `${shard} takes no traffic, it is ${state}; what can be done says: holdfast failover ${shard} --what-if`
}
