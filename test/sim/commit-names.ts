import { HoldfastError } from '../../src/base/errors.ts'
import type { ShardName } from '../../src/directory/topology.ts'

/** Shards of the model are small numbers; the product's functions take names. */
export const nameOf = (shard: number) => `shard/${shard}` as ShardName
export const shardOf = (name: ShardName) => Number(name.slice(6))

export const scheduledFailure = new HoldfastError('transaction_aborted', 'as the schedule has it')
