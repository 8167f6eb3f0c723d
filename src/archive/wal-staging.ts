import { mkdir, open, readdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { HoldfastError } from '../base/errors.ts'
import { fileFailure } from '../base/file-failure.ts'
import type { Lsn } from '../postgres/lsn.ts'
import { formatLsn } from '../postgres/lsn.ts'
import { giveTo } from '../postgres/server/data-directory.ts'
import type { ServerUser } from '../postgres/server/server-user.ts'
import type { ArchiveFolder, ArchiveIdentity } from './archive-folder.ts'
import { listTimelines } from './timeline-archive.ts'
import type { WalStep, WalWay, WayQuestion } from './wal-audit.ts'
import { extendWay, findWay } from './wal-audit.ts'
import { listSegments, readSegment } from './wal-inventory.ts'
import type { WalRange } from './wal-reader.ts'
import { extentOf, readStep } from './wal-reader.ts'
import type { WalExtent } from './wal-records.ts'
import { beforePageHeader, longHeaderBytes, segmentHeader } from './wal-records.ts'
import { historyFileName, segmentName } from './wal-segment.ts'

export interface StagedWal {
  readonly segments: number
  readonly bytes: number
  /** The end of the last whole record in the folder. */
  readonly through: Lsn
}

/**
 * Puts copies of the segments of a range into a new folder, for `restore_command = 'cp <folder>/%f %p'`, and of those that hold
 * the record which starts at its end: PostgreSQL reads the whole of a record before it stops in front of it. Every one is
 * held against its checksum on the way. The segment that is still being received is filled up with zeros, which
 * PostgreSQL takes for the end of the log.
 *
 * The server looks for the next free timeline number among the history files that it can fetch. So all of them are
 * there, and what is restored here never takes a number that the shard has already used (HZ-T2).
 */
export async function stageWal(
  folder: ArchiveFolder,
  target: string,
  range: WalRange & { readonly to: Lsn },
  user: ServerUser | undefined,
  signal?: AbortSignal,
): Promise<StagedWal> {
  const identity = await folder.requireIdentity()
  const { segmentBytes } = identity
  const inventory = await listSegments(folder, segmentBytes)
  const question = { ...range, segmentBytes, inventory, damaged: new Set<string>() }
  const { way, extent } = await includeRecord(folder, question, range.to)
  if (extent === undefined || extent.end < beforePageHeader(range.to, segmentBytes)) {
    throw unreachable(folder, range, extent?.end ?? range.from)
  }
  try {
    await mkdir(target, { recursive: true, mode: 0o700 })
    await giveTo(user, target)
    for (const timeline of await listTimelines(folder)) {
      if (timeline === 1) continue
      const path = join(target, historyFileName(timeline))
      await writeFile(path, await readFile(folder.historyFile(timeline)), { mode: 0o600 })
      await giveTo(user, path)
    }
    for (const step of way.steps) {
      signal?.throwIfAborted()
      const path = join(target, segmentName(step, segmentBytes))
      await writeFile(path, await verifiedBytes(folder, step, identity), { mode: 0o600 })
      await giveTo(user, path)
    }
  } catch (error) {
    signal?.throwIfAborted()
    throw fileFailure(error, target)
  }
  return { segments: way.steps.length, bytes: way.steps.length * segmentBytes, through: extent.end }
}

/** The way to a position, and on to the end of the record that starts there, as far as the archive has it. */
async function includeRecord(
  folder: ArchiveFolder,
  question: WayQuestion,
  at: Lsn,
): Promise<{ way: WalWay; extent: WalExtent | undefined }> {
  let way = findWay(question)
  for (;;) {
    const extent = await extentOf(folder, way, question.segmentBytes)
    // Without a record that ends there, the last segments are the middle of a long one.
    const isWhole = extent !== undefined && extent.lastRecord !== null && extent.end > at
    const longer = isWhole ? way : extendWay(question, way)
    if (longer === way) return { way, extent }
    way = longer
  }
}

/** Up to so many bytes of a staged log from a position on; fewer where it does not have them. */
export async function readStaged(
  folder: string,
  at: Lsn,
  length: number,
): Promise<{ readonly bytes: Buffer; readonly segmentBytes: number }> {
  const found: Buffer[] = []
  let [from, left, segmentBytes] = [BigInt(at), length, 0]
  const names = (await readdir(folder)).filter((name) => /^[0-9A-F]{24}$/.test(name))
  // In the order of the log, whatever the timelines: a segment is staged once.
  for (const name of names.toSorted((a, b) => (a.slice(8) < b.slice(8) ? -1 : 1))) {
    const file = await open(join(folder, name))
    try {
      const header = segmentHeader((await file.read(Buffer.alloc(longHeaderBytes), 0, longHeaderBytes, 0)).buffer)
      if (header === undefined) continue
      segmentBytes = header.segmentBytes
      const within = Number(from - header.start)
      if (within < 0 || within >= segmentBytes) continue
      const take = Math.min(left, segmentBytes - within)
      found.push((await file.read(Buffer.alloc(take), 0, take, within)).buffer)
      from += BigInt(take)
      left -= take
      if (left === 0) break
    } finally {
      await file.close()
    }
  }
  return { bytes: Buffer.concat(found), segmentBytes }
}

async function verifiedBytes(folder: ArchiveFolder, step: WalStep, identity: ArchiveIdentity): Promise<Buffer> {
  const { segmentBytes } = identity
  if (step.state === 'whole' && step.limit === null) {
    const found = await readSegment(folder, step, identity)
    if (found.ok) return found.bytes
    const name = segmentName(step, segmentBytes)
    throw new HoldfastError('archive_gap', `segment ${name} of ${folder.shard} ${found.reason} in the archive`)
  }
  const part = await readStep(folder, step, segmentBytes)
  return Buffer.concat([part, Buffer.alloc(segmentBytes - part.length)])
}

function unreachable(folder: ArchiveFolder, range: WalRange & { readonly to: Lsn }, through: Lsn): HoldfastError {
  const [from, to, end] = [range.from, range.to, through].map(formatLsn)
  return new HoldfastError(
    'archive_gap',
    `the log of ${folder.shard} is archived from ${from} to ${end} without a gap, not to ${to}`,
    { hint: 'Choose an earlier target, or a base backup behind the gap.', detail: { from, to, through: end } },
  )
}
