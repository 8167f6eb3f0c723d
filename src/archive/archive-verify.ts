import { readdir } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { formatLsn } from '../postgres/lsn.ts'
import type { ArchiveFolder } from './archive-folder.ts'
import type { BaseBackupEntry } from './base-backups.ts'
import { listBaseBackups, verifyBaseBackup } from './base-backups.ts'
import type { RedoFile } from './redo-path.ts'
import { listRedoFiles, replayFile } from './redo-path.ts'
import { listTimelines, readTimelineHistory } from './timeline-archive.ts'
import type { TimelineHistory } from './timeline.ts'
import { spansOf } from './timeline.ts'
import { listSegments, readSegment, sizeOf } from './wal-inventory.ts'
import { auditWal } from './wal-reader.ts'
import { segmentName } from './wal-segment.ts'

export interface ArchiveVerification {
  readonly ok: boolean
  /** One sentence for each file that is damaged or missing. */
  readonly problems: readonly string[]
  readonly baseBackups: number
  readonly walSegments: number
  readonly redoTransactions: number
  readonly bytes: number
}

/** Reads everything again and holds it against its checksums, and the log against the gaps in it. */
export async function verifyArchive(folder: ArchiveFolder): Promise<ArchiveVerification> {
  const backups = await listBaseBackups(folder)
  const problems: string[] = []
  for (const entry of backups) problems.push(...(await verifyBaseBackup(folder, entry)))
  const wal = await verifySegments(folder, problems)
  const timelines = await verifyHistories(folder, problems)
  const newest = timelines.at(-1)
  const oldest = newest && backups.find((entry) => isOn(newest, entry))
  if (newest !== undefined && oldest !== undefined) {
    const { gaps } = await auditWal(folder, { history: newest, from: oldest.startLsn }, 'names')
    for (const { from, to } of gaps) problems.push(`the log from ${formatLsn(from)} to ${formatLsn(to)} is missing`)
  }
  const transactions = newest === undefined ? 0 : await verifyRedo(folder, newest, problems)
  return {
    ok: problems.length === 0,
    problems,
    baseBackups: backups.length,
    walSegments: wal,
    redoTransactions: transactions,
    bytes: await bytesBelow(folder.path),
  }
}

/** Whether a base backup lies on a history: a restore from it can go to the newest position. */
export function isOn(history: TimelineHistory, entry: BaseBackupEntry): boolean {
  const span = spansOf(history).find(({ timeline }) => timeline === entry.timeline)
  return span !== undefined && (span.end === null || entry.stopLsn <= span.end)
}

async function verifySegments(folder: ArchiveFolder, problems: string[]): Promise<number> {
  const identity = await folder.identity()
  if (identity === undefined) return 0
  let count = 0
  for (const [timeline, segments] of await listSegments(folder, identity.segmentBytes)) {
    for (const [number, { state }] of segments) {
      if (state === 'partial') continue
      count++
      const found = await readSegment(folder, { timeline, number }, identity)
      if (!found.ok)
        problems.push(`segment ${segmentName({ timeline, number }, identity.segmentBytes)} ${found.reason}`)
    }
  }
  return count
}

async function verifyHistories(folder: ArchiveFolder, problems: string[]): Promise<TimelineHistory[]> {
  const histories: TimelineHistory[] = []
  for (const timeline of await listTimelines(folder)) {
    try {
      histories.push(await readTimelineHistory(folder, timeline))
    } catch (error) {
      problems.push(messageOf(error))
    }
  }
  return histories
}

/** Follows the chain of digests through the stream of a history. */
async function verifyRedo(folder: ArchiveFolder, history: TimelineHistory, problems: string[]): Promise<number> {
  let count = 0
  let before: Uint8Array | null = null
  let through = 0n
  for (const file of await listRedoFiles(folder, history)) {
    try {
      const transactions = replayFile(file)
      let next = await transactions.next()
      for (; next.done !== true; next = await transactions.next()) count++
      const { header, digest, tail } = next.value
      const isLinked = before !== null && header.previous !== null && Buffer.from(before).equals(header.previous)
      if (header.from !== header.start && !isLinked)
        problems.push(`${nameOf(file)} does not continue what is before it`)
      if (before !== null && through < header.start) problems.push(`${nameOf(file)} begins behind a hole`)
      if (tail === 'damaged' && file.limit === null) problems.push(`${nameOf(file)} is damaged at its end`)
      before = digest
      through = next.value.through
    } catch (error) {
      problems.push(messageOf(error))
    }
  }
  return count
}

function nameOf(file: RedoFile): string {
  return `redo segment ${basename(file.path)} of timeline ${file.timeline}`
}

async function bytesBelow(path: string): Promise<number> {
  let bytes = 0
  for (const entry of await readdir(path, { withFileTypes: true, recursive: true }).catch(() => [])) {
    if (entry.isFile()) bytes += await sizeOf(join(entry.parentPath, entry.name)).catch(() => 0)
  }
  return bytes
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}
