import { openArchive } from '../archive/archive.ts'
import type { ShardArchive } from '../archive/archive.ts'
import { HoldfastError } from '../base/errors.ts'
import type { ShardName } from '../directory/topology.ts'
import type { FleetConfig } from './config.ts'
import { fleetHome } from './home.ts'

/** The archive of a shard, where the configuration puts it. Throws `config_invalid` when it has none. */
export async function archiveOf(
  config: Pick<FleetConfig, 'shards' | 'dataDir'>,
  name: ShardName,
): Promise<ShardArchive> {
  const archive = config.shards.get(name)?.archive
  if (archive === null || archive === undefined) {
    throw new HoldfastError('config_invalid', `${name} has no archive`, {
      hint: 'give a region that is legal for it an archive',
      detail: { shard: name },
    })
  }
  return openArchive({ root: archive.path, shard: name, memoryDir: fleetHome(config.dataDir).journalDir })
}
