import type { ArchiveStatus } from '../../archive/archive.ts'
import { formatWallMs } from '../../base/clock.ts'
import { formatHlc } from '../../hlc/hlc.ts'
import { formatLsn } from '../../postgres/lsn.ts'
import { archiveOf } from '../archives.ts'
import type { FleetConfig, ShardConfig } from '../config.ts'
import type { ArchiveReport, ArchiveVerdict } from '../operations-api.ts'
import type { Supervisor } from '../supervisor.ts'

/** What every archive holds, and how far it can be restored from without a gap. */
export function archiveStatus({ config }: Pick<Supervisor, 'config'>): Promise<ArchiveReport[]> {
  return Promise.all(
    archived(config).map(async ({ name, region }) => reportOf(await (await archiveOf(config, name)).status(), region)),
  )
}

/** Reads every archive again and holds it against its checksums. */
export function verifyArchives({ config }: Pick<Supervisor, 'config'>): Promise<ArchiveVerdict[]> {
  return Promise.all(
    archived(config).map(async ({ name, region }) => ({
      shard: name,
      region,
      ...(await (await archiveOf(config, name)).verify()),
    })),
  )
}

function archived({ shards }: Pick<FleetConfig, 'shards'>): (Pick<ShardConfig, 'name'> & { region: string })[] {
  return [...shards.values()].flatMap(({ name, archive }) =>
    archive === null ? [] : [{ name, region: archive.region }],
  )
}

function reportOf(status: ArchiveStatus, region: string): ArchiveReport {
  const { shard, baseBackups, restorable, wal, redo } = status
  return {
    shard,
    region,
    baseBackups: baseBackups.map(({ id, takenAtMs, timeline, startLsn, stopLsn, bytes }) => ({
      backupId: id,
      takenAt: formatWallMs(takenAtMs),
      timeline,
      startLsn: formatLsn(startLsn),
      endLsn: formatLsn(stopLsn),
      bytes,
    })),
    restorable: restorable && {
      ...restorable,
      from: formatLsn(restorable.from),
      through: formatLsn(restorable.through),
    },
    gaps: (wal?.gaps ?? []).map(({ timeline, from, to }) => ({ timeline, from: formatLsn(from), to: formatLsn(to) })),
    redo: redo && {
      from: formatLsn(redo.from),
      through: formatLsn(redo.lsn),
      closedTimestamp: formatHlc(redo.closedTimestamp),
    },
  }
}
