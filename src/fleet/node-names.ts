import type { NodeId, ShardName } from '../directory/topology.ts'

export function nodeId(shard: ShardName, number: number): NodeId {
  return `${shard}.${number}` as NodeId
}

/** The folder of a node, below the servers' folder and, for its socket, below the run directory. */
export function folderOf(shard: ShardName, number: number): string {
  return `${shard.replaceAll('/', '~')}.${number}`
}
