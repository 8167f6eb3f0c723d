import { join } from 'node:path'
import type { ShardName } from '../directory/topology.ts'
import type { FleetHome } from './home.ts'

/** The journal of a shard's deliveries: in the fleet's home, outside of everything that a restore replaces. */
export function journalPath(home: FleetHome, shard: ShardName): string {
  return join(home.journalDir, `deliveries-${shard.replaceAll('/', '~')}.jsonl`)
}
