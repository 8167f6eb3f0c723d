import { hash } from 'node:crypto'
import { HoldfastError } from '../base/errors.ts'
import { remembered } from '../base/remembered.ts'
import type { ShardName } from '../directory/topology.ts'

/**
 * The short form of a shard's name in a token: the first four bytes of its SHA-256. Four names in full would take a
 * quarter of the token. Unlike a place in a list it stays the same when shards come and go.
 */
export const refOfShard: (shard: ShardName) => number = remembered(
  (shard) => hash('sha256', shard, 'buffer').readUInt32BE(0),
  1_000,
)

/** The shards of a fleet by their short form. Throws `config_invalid` when two names share one. */
export function shardsByRef(shards: Iterable<ShardName>): ReadonlyMap<number, ShardName> {
  const byRef = new Map<number, ShardName>()
  for (const shard of shards) {
    const ref = refOfShard(shard)
    const other = byRef.get(ref)
    if (other !== undefined && other !== shard) {
      throw new HoldfastError('config_invalid', `shards ${other} and ${shard} have the same short form in tokens`, {
        hint: 'rename one of them before it holds data',
      })
    }
    byRef.set(ref, shard)
  }
  return byRef
}
