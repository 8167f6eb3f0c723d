import type { ShardArchive } from '../../archive/archive.ts'
import { HoldfastError } from '../../base/errors.ts'
import type { Progress } from '../../base/progress.ts'
import { decidePlacement } from '../../directory/policy.ts'
import type { ShardName } from '../../directory/topology.ts'
import { formatLsn } from '../../postgres/lsn.ts'
import { archiveOf } from '../archives.ts'
import { jurisdictionsOf } from '../config.ts'
import type { BackupReport } from '../operations-api.ts'
import { nodeOf } from '../shard-servers.ts'
import type { Supervisor } from '../supervisor.ts'
import { placementsOn } from './placements.ts'

/** Takes base backups into the archives of the shards, where the policies of everything on the shard allow one. */
export async function backUp(
  supervisor: Supervisor,
  shards: readonly ShardName[] | undefined,
  progress: Progress,
): Promise<BackupReport[]> {
  const names = shards ?? [...supervisor.config.shards.keys()]
  const unknown = names.find((name) => !supervisor.config.shards.has(name))
  if (unknown !== undefined) {
    throw new HoldfastError('unknown_shard', `no shard ${JSON.stringify(unknown)}`, {
      hint: `known shards are ${[...supervisor.config.shards.keys()].join(', ')}`,
    })
  }
  return Promise.all(names.map((name) => backUpShard(supervisor, name, progress)))
}

async function backUpShard(supervisor: Supervisor, name: ShardName, progress: Progress): Promise<BackupReport> {
  const { clock, servers, config } = supervisor
  const { region } = requireArchive(supervisor, name)
  const archive: ShardArchive = await archiveOf(config, name)
  const question = { holding: 'backup', region } as const
  const decision = decidePlacement(question, await placementsOn(supervisor, name), jurisdictionsOf(config.regions))
  const shard = supervisor.topology.shard(name)
  const primary = nodeOf(shard, shard.primary)
  progress({ step: 'back up', detail: `${name} into the archive of ${region}` })
  const started = clock.monotonicMs()
  const entry = await archive.takeBaseBackup({
    target: servers.target(primary, 'holdfast_replication', `backup-${name}`),
    region,
    decision,
  })
  return {
    shard: name,
    backupId: entry.id,
    region,
    startLsn: formatLsn(entry.startLsn),
    endLsn: formatLsn(entry.stopLsn),
    bytes: entry.bytes,
    durationMs: Math.round(clock.monotonicMs() - started),
  }
}

function requireArchive(supervisor: Supervisor, name: ShardName) {
  const { archive } = supervisor.shardServers.shardConfig(name)
  if (archive !== null) return archive
  throw new HoldfastError('config_invalid', `${name} has no archive`, {
    hint: 'give a region that is legal for it an archive',
    detail: { shard: name },
  })
}
