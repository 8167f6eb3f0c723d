import type { ShardArchive } from '../archive/archive.ts'
import type { RedoTransaction } from '../archive/redo-transaction.ts'
import { spansOf, type TimelineHistory } from '../archive/timeline.ts'
import { isAbsent } from '../archive/archive-folder.ts'
import type { RegionName } from '../directory/topology.ts'
import type { ArchiveFacts } from './proof-facts.ts'

/**
 * What the archive of one shard holds of a transaction. The redo stream has no index by transaction id, so it is read
 * through; proving is rare. A cutover opens a timeline that forks before transactions which it redid: those are
 * found, whole, on the timeline that it left.
 */
export async function archiveFacts(
  archive: ShardArchive,
  region: RegionName,
  transactionId: string,
): Promise<ArchiveFacts> {
  const through = await archive.redoThrough()
  const redoClosed = through?.closedTimestamp ?? null
  for (const history of await histories(archive)) {
    const found = await findRedo(archive, history, transactionId)
    if (found === undefined) continue
    const redo = { commitLsn: found.commitLsn, endLsn: found.endLsn }
    const timelines = new Set(spansOf(history).map(({ timeline }) => timeline))
    const backup = (await archive.listBaseBackups()).findLast(
      ({ timeline, stopLsn }) => timelines.has(timeline) && stopLsn <= found.commitLsn,
    )
    if (backup === undefined) return { region, redo, redoClosed, backup: null, wal: null }
    const audit = await archive.auditWal({ history, from: backup.startLsn, to: found.endLsn }, 'names')
    return {
      region,
      redo,
      redoClosed,
      backup: { id: backup.id, startLsn: backup.startLsn },
      wal: {
        contiguousThrough: audit.contiguousThrough,
        gaps: audit.gaps.length,
        checksumFailures: audit.checksumFailures.length,
      },
    }
  }
  return { region, redo: null, redoClosed, backup: null, wal: null }
}

/** Of every timeline that was archived, the newest first. */
async function histories(archive: ShardArchive): Promise<TimelineHistory[]> {
  const newest = await archive.timelineHistory()
  const all = [newest]
  for (let timeline = newest.timeline - 1; timeline >= 1; timeline -= 1) {
    try {
      all.push(await archive.timelineHistory(timeline))
    } catch (error) {
      // A timeline that was never archived: of an environment, or of another follower.
      if (!isAbsent(error)) throw error
    }
  }
  return all
}

async function findRedo(
  archive: ShardArchive,
  history: TimelineHistory,
  transactionId: string,
): Promise<RedoTransaction | undefined> {
  if ((await archive.redoThrough(history)) === undefined) return undefined
  for await (const transaction of archive.readRedo({ history })) {
    const { identity } = transaction
    if ((identity.kind === 'home' || identity.kind === 'branch') && identity.transactionId === transactionId) {
      return transaction
    }
  }
  return undefined
}
