import { present } from '../base/assert.ts'
import { HoldfastError } from '../base/errors.ts'
import type { Lsn } from '../postgres/lsn.ts'
import { formatLsn, maxLsn } from '../postgres/lsn.ts'
import type { ArchiveFolder } from './archive-folder.ts'
import { listRedoFiles, positionAt, replayFile } from './redo-path.ts'
import type { RedoThrough, RedoTransaction, RelationName, RelationShape } from './redo-transaction.ts'
import type { TimelineHistory } from './timeline.ts'

/** Reads the redo stream of one timeline history, over all its segments. A hole is an error, never an absence (A4). */

export interface RedoRange {
  readonly history: TimelineHistory
  readonly from?: Lsn | undefined
  readonly to?: Lsn | undefined
  readonly signal?: AbortSignal | undefined
}

/**
 * The transactions that ended behind `from` and at or before `to`, in commit order, one segment in memory at a time.
 * Throws `archive_gap` as soon as something in the range is missing.
 */
export async function* readRedo(folder: ArchiveFolder, range: RedoRange): AsyncGenerator<RedoTransaction, void> {
  const files = await listRedoFiles(folder, range.history)
  const last = files.at(-1)
  if (last === undefined) {
    if (range.to !== undefined) throw gap(folder, range.from ?? range.to, range.to)
    return
  }
  const from = range.from ?? (await positionAt(last, last.start)).header.from
  const to = range.to ?? null
  const first = files.findLastIndex((file) => file.start <= from)
  if (first < 0) throw gap(folder, from, present(files[0], 'there is a segment').start)
  let covered = from
  for (const file of files.slice(first)) {
    if (to !== null && covered >= to) return
    range.signal?.throwIfAborted()
    if (file.start > covered) throw gap(folder, covered, file.start)
    const transactions = replayFile(file, to)
    for (;;) {
      const next = await transactions.next()
      if (next.done === true) {
        covered = maxLsn(covered, next.value.through)
        break
      }
      // The writer after a promotion may have begun before the end of what the one before it had stored.
      if (next.value.endLsn > covered) yield next.value
      covered = maxLsn(covered, next.value.endLsn)
    }
  }
  if (to !== null && covered < to) throw gap(folder, covered, to)
}

/** How far the stream of a history reaches; undefined while it is empty. */
export async function redoThrough(folder: ArchiveFolder, history: TimelineHistory): Promise<RedoThrough | undefined> {
  const last = (await listRedoFiles(folder, history)).at(-1)
  if (last === undefined) return undefined
  const { through, closedTimestamp, header } = await positionAt(last)
  return { lsn: through, closedTimestamp, from: header.from, clockAtFrom: header.clockAtFrom }
}

/** How the relations looked when the stream had come to `at`; at its end when left out. */
export async function relationShapes(
  folder: ArchiveFolder,
  history: TimelineHistory,
  at?: Lsn,
): Promise<ReadonlyMap<RelationName, RelationShape>> {
  const files = await listRedoFiles(folder, history)
  const file = files.findLast(({ start }) => at === undefined || start <= at)
  return file === undefined ? new Map() : (await positionAt(file, at ?? null)).shapes
}

function gap(folder: ArchiveFolder, from: Lsn, to: Lsn): HoldfastError {
  const range = { from: formatLsn(from), to: formatLsn(to) }
  return new HoldfastError(
    'archive_gap',
    `the redo stream of ${folder.shard} does not have the transactions between ${range.from} and ${range.to}`,
    { hint: 'Choose a base backup and a target that are both on one side of it.', detail: range },
  )
}
