import type { ShardArchive } from '../archive/archive.ts'
import type { RedoTransaction } from '../archive/redo-transaction.ts'
import type { RegionName } from '../directory/topology.ts'
import type { ArchiveFacts } from './proof-facts.ts'

/**
 * What the archive of one shard holds of a transaction. The redo stream has no index by transaction id, so it is read
 * through; proving is rare.
 */
export async function archiveFacts(
  archive: ShardArchive,
  region: RegionName,
  transactionId: string,
): Promise<ArchiveFacts> {
  const through = await archive.redoThrough()
  const found = through === undefined ? undefined : await findRedo(archive, transactionId)
  if (found === undefined) {
    return { region, redo: null, redoClosed: through?.closedTimestamp ?? null, backup: null, wal: null }
  }
  const redo = { commitLsn: found.commitLsn, endLsn: found.endLsn }
  const redoClosed = through?.closedTimestamp ?? null
  const backup = (await archive.listBaseBackups()).findLast((each) => each.stopLsn <= found.commitLsn)
  if (backup === undefined) return { region, redo, redoClosed, backup: null, wal: null }
  const history = await archive.timelineHistory()
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

async function findRedo(archive: ShardArchive, transactionId: string): Promise<RedoTransaction | undefined> {
  for await (const transaction of archive.readRedo()) {
    const { identity } = transaction
    if ((identity.kind === 'home' || identity.kind === 'branch') && identity.transactionId === transactionId) {
      return transaction
    }
  }
  return undefined
}
