import { readFile } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { assert, present } from '../base/assert.ts'
import type { Hlc } from '../hlc/hlc.ts'
import { maxHlc } from '../hlc/hlc.ts'
import type { Lsn } from '../postgres/lsn.ts'
import { maxLsn, toLsn } from '../postgres/lsn.ts'
import type { ArchiveFolder } from './archive-folder.ts'
import type { Attribution } from './redo-attribution.ts'
import { advance } from './redo-attribution.ts'
import type { RedoRecord, RedoSegmentEnd, RedoSegmentHeader } from './redo-segment.ts'
import { readRecords } from './redo-segment.ts'
import type { RedoTransaction, RelationName, RelationShape } from './redo-transaction.ts'
import { relationName } from './redo-transaction.ts'
import type { TimelineHistory } from './timeline.ts'
import { spansOf } from './timeline.ts'
import { listNames } from './wal-inventory.ts'

/**
 * Which segments of the redo stream make up one timeline history, and how far each of them counts.
 *
 * A writer never appends to a segment of another writer. It begins its own where the whole records before it end, under
 * the next generation number. So a segment counts up to the start of the first one of the next generation: what a
 * writer that did not know it was replaced still put behind that, and a tail that a crash cut, is not part of the
 * stream. It counts no further than its timeline either.
 */
export interface RedoFile {
  readonly path: string
  readonly timeline: number
  readonly generation: number
  readonly start: Lsn
  /** Transactions that end behind it are not taken from this file; null of the last one. */
  readonly limit: Lsn | null
}

export async function listRedoFiles(folder: ArchiveFolder, history: TimelineHistory): Promise<RedoFile[]> {
  const files: RedoFile[] = []
  let next: Lsn | null = null
  for (const { timeline, end } of spansOf(history).reverse()) {
    const path = folder.redoFolderOf(timeline)
    for (const name of (await listNames(path)).reverse()) {
      const place = parseFileName(name)
      const limit: Lsn | null = smaller(next, end)
      if (place === undefined || (limit !== null && place.start >= limit)) continue
      files.unshift({ path: join(path, name), timeline, ...place, limit })
      next = place.start
    }
  }
  return files
}

/** Sorts by generation, then by start. */
export function redoFileName(generation: number, start: Lsn): string {
  return `${hex(BigInt(generation), 8)}-${hex(start, 16)}.redo`
}

/** The generation that a new writer on a timeline takes. */
export async function nextGeneration(folder: ArchiveFolder, timeline: number): Promise<number> {
  const names = await listNames(folder.redoFolderOf(timeline))
  return names.reduce((highest, name) => Math.max(highest, parseFileName(name)?.generation ?? 0), 0) + 1
}

function parseFileName(name: string): { generation: number; start: Lsn } | undefined {
  const match = /^([0-9A-F]{8})-([0-9A-F]{16})\.redo$/.exec(name)
  if (match?.[1] === undefined) return undefined
  return { generation: Number.parseInt(match[1], 16), start: toLsn(BigInt(`0x${match[2]}`)) }
}

function hex(value: bigint, digits: number): string {
  return value.toString(16).toUpperCase().padStart(digits, '0')
}

/** What the stream amounts to at one place. */
export interface RedoPosition {
  readonly header: RedoSegmentHeader
  /** Everything that ended at or before it is in the stream, from `header.from` on. */
  readonly through: Lsn
  readonly closedTimestamp: Hlc
  readonly attribution: Attribution
  readonly shapes: ReadonlyMap<RelationName, RelationShape>
  /** Of the last record that moves the position. */
  readonly digest: Uint8Array
  readonly tail: RedoSegmentEnd['tail']
}

/**
 * Reads one file as far as it counts, and no further than `to`; yields its transactions and returns what they amount to.
 * Throws `check_failed` when the file cannot be read.
 */
export async function* replayFile(
  file: RedoFile,
  to: Lsn | null = null,
): AsyncGenerator<RedoTransaction, RedoPosition> {
  const records = readRecords(await readFile(file.path), basename(file.path))
  const limit = smaller(file.limit, to)
  let position: RedoPosition | undefined
  // A shape holds from the transaction behind it on.
  let learnt: RelationShape[] = []
  for (;;) {
    const next = records.next()
    if (next.done === true) return { ...present(position, 'a file without a header is refused'), tail: next.value.tail }
    const record = next.value
    if (record.kind === 'header') {
      position = beginning(record, record.digest)
      continue
    }
    assert(position !== undefined, 'the header is the first record')
    if (record.kind === 'shape') {
      learnt.push(record.shape)
      continue
    }
    if (limit !== null && endOf(record) > limit) return { ...position, through: maxLsn(position.through, limit) }
    position = after(position, record, learnt, record.digest)
    learnt = []
    if (record.kind === 'transaction') yield record.transaction
  }
}

/** What a file amounts to, without its transactions. */
export async function positionAt(file: RedoFile, to: Lsn | null = null): Promise<RedoPosition> {
  const transactions = replayFile(file, to)
  for (;;) {
    const next = await transactions.next()
    if (next.done === true) return next.value
  }
}

function beginning(header: RedoSegmentHeader, digest: Uint8Array): RedoPosition {
  const { start, closedTimestamp, highestStamp, decided } = header
  const attribution = { highestStamp, decided: new Map(decided) }
  const shapes = new Map(header.shapes.map((shape) => [relationName(shape), shape]))
  return { header, through: start, closedTimestamp, attribution, shapes, digest, tail: 'clean' }
}

type Step = Extract<RedoRecord, { kind: 'transaction' | 'through' }>

function after(before: RedoPosition, step: Step, learnt: readonly RelationShape[], digest: Uint8Array): RedoPosition {
  const position = { ...before, digest, shapes: learn(before.shapes, learnt) }
  if (step.kind === 'through') {
    const closedTimestamp = maxHlc(before.closedTimestamp, step.closedTimestamp)
    return { ...position, through: maxLsn(before.through, step.lsn), closedTimestamp }
  }
  const { endLsn, changes, identity } = step.transaction
  return { ...position, through: endLsn, attribution: advance(before.attribution, changes, identity) }
}

function learn(
  known: ReadonlyMap<RelationName, RelationShape>,
  learnt: readonly RelationShape[],
): ReadonlyMap<RelationName, RelationShape> {
  if (learnt.length === 0) return known
  return new Map([...known, ...learnt.map((shape) => [relationName(shape), shape] as const)])
}

function endOf(step: Step): Lsn {
  return step.kind === 'transaction' ? step.transaction.endLsn : step.lsn
}

function smaller(a: Lsn | null, b: Lsn | null): Lsn | null {
  if (a === null || b === null) return a ?? b
  return a < b ? a : b
}
