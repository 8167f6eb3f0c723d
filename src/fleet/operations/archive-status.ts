import type { ArchiveStatus } from '../../archive/archive.ts'
import type { ArchiveVerification } from '../../archive/archive-verify.ts'
import type { ShardName } from '../../directory/topology.ts'
import { archiveOf } from '../archives.ts'
import type { Supervisor } from '../supervisor.ts'

/** What every archive holds, and how far it can be restored from without a gap. */
export function archiveStatus({ config }: Supervisor): Promise<ArchiveStatus[]> {
  return Promise.all(archived(config).map(async (name) => (await archiveOf(config, name)).status()))
}

/** Reads every archive again and holds it against its checksums. */
export function verifyArchives({ config }: Supervisor): Promise<(ArchiveVerification & { shard: ShardName })[]> {
  return Promise.all(
    archived(config).map(async (name) => ({ shard: name, ...(await (await archiveOf(config, name)).verify()) })),
  )
}

function archived(config: Supervisor['config']): ShardName[] {
  return [...config.shards.values()].filter(({ archive }) => archive !== null).map(({ name }) => name)
}
