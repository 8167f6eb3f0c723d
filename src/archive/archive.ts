import type { Clock } from '../base/clock.ts'
import { systemClock } from '../base/clock.ts'
import type { ShardName } from '../directory/topology.ts'
import type { Lsn } from '../postgres/lsn.ts'
import type { ServerUser } from '../postgres/server/server-user.ts'
import { ArchiveFolder } from './archive-folder.ts'
import type { ArchiveVerification } from './archive-verify.ts'
import { isOn, verifyArchive } from './archive-verify.ts'
import type { BackupSource, BaseBackupEntry } from './base-backups.ts'
import { extractBaseBackup, listBaseBackups, takeBaseBackup } from './base-backups.ts'
import { readRedo, redoThrough, relationShapes } from './redo-reader.ts'
import type { RedoThrough, RedoTransaction, RelationName, RelationShape } from './redo-transaction.ts'
import { readTimelineHistory } from './timeline-archive.ts'
import type { TimelineHistory } from './timeline.ts'
import type { WalAudit } from './wal-audit.ts'
import type { WalRange } from './wal-reader.ts'
import { auditWal } from './wal-reader.ts'
import type { StagedWal } from './wal-staging.ts'
import { stageWal } from './wal-staging.ts'

/**
 * The archive of one shard: what is left when every disk of the shard is gone.
 *
 * It holds base backups, the whole log, and the redo stream, in a folder of a region that is legal for the data. Three
 * simple ways to do this are wrong. A command that PostgreSQL runs for each segment loses those that were finished
 * while a server was still a follower, and no counter says so (HZ-A1). A restore without a stop opens for writing at
 * the first missing segment (HZ-A2). A decoder that confirms what it has only read loses it in a crash. So the archive
 * receives the log itself, says how far it is without a gap before anyone restores from it, and confirms to the
 * server only what is on its disk.
 *
 * Owns the files below its folder, the physical slot of the receiver and the logical slot of the redo stream. It does
 * not decide where an archive may be, does not choose a recovery target and starts no server.
 *
 *   A1  What has a final name is whole, flushed, and never changes. A position is reported to the server as flushed
 *       only after the bytes up to it are.
 *   A2  A segment in the archive is byte for byte the server's. A second one of the same name with other bytes is
 *       refused, never stored over the first.
 *   A3  Nothing is said to be restorable but ground that was audited: every segment from the start of a base backup
 *       on, along one timeline history, without a gap.
 *   A4  The redo stream has every transaction once, in the order of the commit records, however often its writer
 *       crashed. What it misses is a hole that readers are told of, never silence.
 *   A5  A transaction enters the redo stream only when a promotion cannot lose it any more.
 *   A6  An archive is of one cluster. Another cluster of the same shard name is refused.
 *   A8  A folder that was an archive and is empty is not begun anew: the fleet remembers it elsewhere.
 *
 * HAZARD: the folder must be on a file system whose fsync means what it says.
 */
export interface ShardArchive {
  readonly shard: ShardName
  /** The folder of this shard. */
  readonly path: string

  /** Whole ones, oldest first. */
  listBaseBackups(): Promise<readonly BaseBackupEntry[]>
  /** Takes a base backup of the shard. Throws `residency_denied` when the region of this archive is not legal for it. */
  takeBaseBackup(source: BackupSource): Promise<BaseBackupEntry>
  /**
   * Unpacks a base backup into a new data directory, verified against its manifest, without the settings and the
   * upstream of the node it was taken from. Throws `check_failed`, `disk_full`, and the reason of the signal.
   */
  extractBaseBackup(
    id: string,
    dataDir: string,
    user: ServerUser | undefined,
    signal?: AbortSignal,
  ): Promise<BaseBackupEntry>

  /** The history of a timeline; of the newest one that was archived when none is named. */
  timelineHistory(timeline?: number): Promise<TimelineHistory>
  /**
   * How far the log reaches without a gap. `bytes` reads every segment again and holds it against its checksum;
   * `names` looks at names, sizes and the last segment alone.
   */
  auditWal(range: WalRange, depth: 'names' | 'bytes'): Promise<WalAudit>
  /**
   * Puts verified copies of the segments of a range into a new folder, which works as
   * `restore_command = 'cp <folder>/%f %p'`, with every timeline history that was archived: so a promotion of what is
   * restored takes a timeline number that is free. The record that starts at `to` is there as well, wherever the archive has it.
   * Throws `archive_gap`, and the reason of the signal.
   */
  stageWal(
    folder: string,
    range: WalRange & { readonly to: Lsn },
    user: ServerUser | undefined,
    signal?: AbortSignal,
  ): Promise<StagedWal>

  /**
   * The transactions that ended behind `from` and at or before `to`, in commit order. Throws `archive_gap` when the
   * stream has a hole in that range or does not reach `to`. Without `from`, from the last hole on; without `to`, as far as
   * the stream goes. `history` is the newest one when left out. Throws the reason of the signal at the next segment.
   */
  readRedo(range?: RedoRange): AsyncIterable<RedoTransaction>
  /** How the relations looked, as far as the stream went at `at`; at its end when left out. */
  relationShapes(range?: {
    readonly history?: TimelineHistory
    readonly at?: Lsn
  }): Promise<ReadonlyMap<RelationName, RelationShape>>
  /** How far the redo stream reaches; undefined while it is empty. */
  redoThrough(history?: TimelineHistory): Promise<RedoThrough | undefined>

  /** Reads everything again and holds it against its checksums. */
  verify(): Promise<ArchiveVerification>
  status(): Promise<ArchiveStatus>
}

export interface RedoRange {
  readonly history?: TimelineHistory
  readonly from?: Lsn
  readonly to?: Lsn
  readonly signal?: AbortSignal | undefined
}

export interface ArchiveStatus {
  readonly shard: ShardName
  readonly baseBackups: readonly BaseBackupEntry[]
  /** Of the newest base backup; null without one. A restore may stop anywhere between. */
  readonly restorable: { readonly from: Lsn; readonly through: Lsn; readonly timeline: number } | null
  readonly wal: WalAudit | null
  readonly redo: RedoThrough | null
}

export interface ArchivePlace {
  /** The archive of a region: it holds one folder a shard. */
  readonly root: string
  readonly shard: ShardName
  /** Where the fleet remembers that it has this archive (A8). */
  readonly memoryDir?: string
  readonly clock?: Clock
}

/** The archive of a shard. Looks at the disk at every call, since other processes write there. */
export function openArchive({ root, shard, memoryDir, clock = systemClock }: ArchivePlace): ShardArchive {
  const folder = new ArchiveFolder(root, shard, memoryDir)
  const newest = (history?: TimelineHistory) => history ?? readTimelineHistory(folder)
  return {
    shard,
    path: folder.path,
    listBaseBackups: () => listBaseBackups(folder),
    takeBaseBackup: (source) => takeBaseBackup(folder, source, clock),
    extractBaseBackup: (id, dataDir, user, signal) => extractBaseBackup(folder, id, dataDir, user, signal),
    timelineHistory: (timeline) => readTimelineHistory(folder, timeline),
    auditWal: (range, depth) => auditWal(folder, range, depth),
    stageWal: (target, range, user, signal) => stageWal(folder, target, range, user, signal),
    readRedo: async function* (range = {}) {
      yield* readRedo(folder, { ...range, history: await newest(range.history) })
    },
    relationShapes: async (range = {}) => relationShapes(folder, await newest(range.history), range.at),
    redoThrough: async (history) => redoThrough(folder, await newest(history)),
    verify: () => verifyArchive(folder),
    status: () => readStatus(folder),
  }
}

async function readStatus(folder: ArchiveFolder): Promise<ArchiveStatus> {
  const { shard } = folder
  const baseBackups = await listBaseBackups(folder)
  const history = await readTimelineHistory(folder)
  const newest = baseBackups.findLast((entry) => isOn(history, entry))
  const redo = (await redoThrough(folder, history)) ?? null
  if (newest === undefined) return { shard, baseBackups, restorable: null, wal: null, redo }
  const wal = await auditWal(folder, { history, from: newest.startLsn }, 'names')
  const { stopLsn: from } = newest
  const through = wal.contiguousThrough
  const restorable = through < from ? null : { from, through, timeline: history.timeline }
  return { shard, baseBackups, restorable, wal, redo }
}
