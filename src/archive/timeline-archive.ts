import { readFile } from 'node:fs/promises'
import { storeDurably } from '../base/durable-files.ts'
import { HoldfastError } from '../base/errors.ts'
import type { ReplicationConnection } from '../postgres/replication.ts'
import type { ArchiveFolder } from './archive-folder.ts'
import { createFolder, readOptional } from './archive-folder.ts'
import type { TimelineHistory } from './timeline.ts'
import { firstTimeline, formatTimelineHistory, historyOf, parseTimelineHistory } from './timeline.ts'
import { listNames } from './wal-inventory.ts'

/** The `.history` files of the archive. */

/** Archives the history of the server's timeline and of those before it, unless they are there; it comes back. */
export async function archiveHistory(
  connection: ReplicationConnection,
  folder: ArchiveFolder,
  timeline: number,
): Promise<TimelineHistory> {
  if (timeline === 1) return firstTimeline
  const text = await connection.timelineHistory(timeline)
  const history = parseTimelineHistory(timeline, text)
  await createFolder(folder.walFolder)
  for (const parent of history.parents) {
    if (parent.timeline === 1 || (await readOptional(folder.historyFile(parent.timeline))) !== undefined) continue
    const content = Buffer.from(formatTimelineHistory(historyOf(history, parent.timeline)))
    await storeDurably(folder.historyFile(parent.timeline), content)
  }
  await storeHistory(folder, timeline, text)
  return history
}

/** A2: one timeline, one history. */
async function storeHistory(folder: ArchiveFolder, timeline: number, text: string): Promise<void> {
  const archived = await readOptional(folder.historyFile(timeline))
  if (archived === undefined) return storeDurably(folder.historyFile(timeline), Buffer.from(text))
  const known = parseTimelineHistory(timeline, archived.toString())
  if (formatTimelineHistory(known) === formatTimelineHistory(parseTimelineHistory(timeline, text))) return
  throw new HoldfastError('archive_gap', `timeline ${timeline} of ${folder.shard} is archived with another history`, {
    hint: 'Two servers were promoted to the same timeline. Find out which history is the right one before archiving goes on.',
  })
}

/** The timelines that were archived, from the oldest on. The first one has no file. */
export async function listTimelines(folder: ArchiveFolder): Promise<number[]> {
  const names = await listNames(folder.walFolder)
  const found = names.flatMap((name) => /^([0-9A-F]{8})\.history$/.exec(name)?.[1] ?? [])
  return [1, ...found.map((hex) => Number.parseInt(hex, 16))].sort((a, b) => a - b)
}

/** The history of an archived timeline; of the newest one when none is named. */
export async function readTimelineHistory(folder: ArchiveFolder, timeline?: number): Promise<TimelineHistory> {
  const number = timeline ?? (await listTimelines(folder)).at(-1) ?? 1
  if (number === 1) return firstTimeline
  return parseTimelineHistory(number, await readFile(folder.historyFile(number), 'utf8'))
}
