import { createHash } from 'node:crypto'
import { readdir, readFile, stat } from 'node:fs/promises'
import { join } from 'node:path'
import type { ArchiveFolder, ArchiveIdentity } from './archive-folder.ts'
import { isAbsent, readOptional } from './archive-folder.ts'
import type { WalSegment } from './wal-segment.ts'
import { parseSegmentName, segmentName, segmentStart } from './wal-segment.ts'
import { segmentHeader } from './wal-records.ts'

/** What the folder of the log holds. Looks again at every call: another process writes to it. */

export const partialSuffix = '.partial'
export const checksumSuffix = '.sha256'

export type SegmentState = 'whole' | 'partial'

export interface SegmentFile {
  readonly state: SegmentState
  /** How much of it is written, which need not all be of use. */
  readonly bytes: number
}

/** Of a segment that is there whole and in part, the whole one. */
export type WalInventory = ReadonlyMap<number, ReadonlyMap<bigint, SegmentFile>>

export async function listSegments(folder: ArchiveFolder, segmentBytes: number): Promise<WalInventory> {
  const inventory = new Map<number, Map<bigint, SegmentFile>>()
  for (const name of await listNames(folder.walFolder)) {
    if (!/^[0-9A-F]{8}$/.test(name)) continue
    const timeline = Number.parseInt(name, 16)
    const segments = new Map<bigint, SegmentFile>()
    const path = folder.walFolderOf(timeline)
    for (const file of await listNames(path)) {
      const state = file.endsWith(partialSuffix) ? 'partial' : 'whole'
      const segment = parseSegmentName(state === 'partial' ? file.slice(0, -partialSuffix.length) : file, segmentBytes)
      if (segment?.timeline !== timeline || segments.get(segment.number)?.state === 'whole') continue
      const bytes = state === 'whole' ? segmentBytes : await writtenBytes(join(path, file), segmentBytes)
      segments.set(segment.number, { state, bytes })
    }
    inventory.set(timeline, segments)
  }
  return inventory
}

/** All of it, of one that has become whole since it was listed. */
async function writtenBytes(path: string, segmentBytes: number): Promise<number> {
  try {
    return await sizeOf(path)
  } catch (error) {
    if (isAbsent(error)) return segmentBytes
    throw error
  }
}

export function segmentPath(folder: ArchiveFolder, segment: WalSegment, segmentBytes: number): string {
  return join(folder.walFolderOf(segment.timeline), segmentName(segment, segmentBytes))
}

/** The bytes of a segment, of one that is being received as far as they are written. */
export async function readBytes(
  folder: ArchiveFolder,
  segment: WalSegment & { readonly state: SegmentState },
  segmentBytes: number,
): Promise<Buffer> {
  const path = segmentPath(folder, segment, segmentBytes)
  if (segment.state === 'whole') return readFile(path)
  // It may have become whole since it was listed.
  return (await readOptional(`${path}${partialSuffix}`)) ?? readFile(path)
}

export type CheckedSegment =
  | { readonly ok: true; readonly bytes: Buffer }
  | { readonly ok: false; readonly reason: string }

/** Reads a whole segment and holds it against its checksum, and against the place that it claims. */
export async function readSegment(
  folder: ArchiveFolder,
  segment: WalSegment,
  identity: ArchiveIdentity,
): Promise<CheckedSegment> {
  const { segmentBytes, systemId } = identity
  const path = segmentPath(folder, segment, segmentBytes)
  const bytes = await readOptional(path)
  if (bytes === undefined) return { ok: false, reason: 'is missing' }
  if (bytes.length !== segmentBytes)
    return { ok: false, reason: `has ${bytes.length} bytes instead of ${segmentBytes}` }
  const checksum = await readOptional(`${path}${checksumSuffix}`)
  if (checksum === undefined) return { ok: false, reason: 'has no checksum beside it' }
  const stated = /^([0-9a-f]{64}) /.exec(checksum.toString('latin1'))?.[1]
  if (stated !== createHash('sha256').update(bytes).digest('hex')) return { ok: false, reason: 'has another checksum' }
  const header = segmentHeader(bytes)
  const belongs = header?.start === segmentStart(segment.number, segmentBytes) && header.systemId === systemId
  return belongs ? { ok: true, bytes } : { ok: false, reason: 'is the log of another place or cluster' }
}

/** The content of `<segment>.sha256`, in the form that `sha256sum -c` reads. */
export function checksumFile(sha256: string, name: string): Buffer {
  return Buffer.from(`${sha256}  ${name}\n`)
}

/** Names in a folder, sorted; none when there is no such folder. */
export async function listNames(path: string): Promise<string[]> {
  try {
    return (await readdir(path)).sort()
  } catch (error) {
    if (isAbsent(error)) return []
    throw error
  }
}

export async function sizeOf(path: string): Promise<number> {
  return (await stat(path)).size
}
