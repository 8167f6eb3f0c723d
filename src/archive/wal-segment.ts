import { assert } from '../base/assert.ts'
import type { Lsn } from '../postgres/lsn.ts'
import { toLsn } from '../postgres/lsn.ts'
import type { TimelineHistory } from './timeline.ts'
import { spansOf } from './timeline.ts'

/**
 * The log is kept in segments of one size, a power of two that `initdb` fixed. A segment's name is its timeline and
 * its number, in hexadecimal: `0000000200000001000000A3` (PostgreSQL, `src/include/access/xlog_internal.h`).
 */
export interface WalSegment {
  readonly timeline: number
  /** Position divided by segment size. */
  readonly number: bigint
}

const fileBytes = 0x1_0000_0000n

export function segmentName({ timeline, number }: WalSegment, segmentBytes: number): string {
  const perFile = fileBytes / BigInt(segmentBytes)
  return [BigInt(timeline), number / perFile, number % perFile].map((part) => hex8(part)).join('')
}

/** Undefined when the name is not one of a segment of that size. */
export function parseSegmentName(name: string, segmentBytes: number): WalSegment | undefined {
  if (!/^[0-9A-F]{24}$/.test(name)) return undefined
  const perFile = fileBytes / BigInt(segmentBytes)
  const [timeline, file, within] = [0, 8, 16].map((at) => BigInt(`0x${name.slice(at, at + 8)}`))
  if (timeline === undefined || file === undefined || within === undefined || within >= perFile) return undefined
  return { timeline: Number(timeline), number: file * perFile + within }
}

export function timelineFolder(timeline: number): string {
  return hex8(BigInt(timeline))
}

export function historyFileName(timeline: number): string {
  return `${hex8(BigInt(timeline))}.history`
}

export function segmentNumber(lsn: Lsn, segmentBytes: number): bigint {
  return lsn / BigInt(segmentBytes)
}

export function segmentStart(number: bigint, segmentBytes: number): Lsn {
  return toLsn(number * BigInt(segmentBytes))
}

/**
 * The timeline whose file holds a segment of this history. A promotion in the middle of a segment copies the
 * beginning to the new timeline's file, so the newest timeline that begins in or before the segment has it whole.
 */
export function timelineOfSegment(history: TimelineHistory, number: bigint, segmentBytes: number): number {
  const spans = spansOf(history).filter((span) => segmentNumber(span.begin, segmentBytes) <= number)
  const newest = spans.at(-1)
  assert(newest !== undefined, 'the first timeline begins at zero')
  return newest.timeline
}

/** `initdb --wal-segsize` takes powers of two from 1 MB to 1 GB. */
export function isSegmentSize(bytes: number): boolean {
  return Number.isInteger(Math.log2(bytes)) && bytes >= 1 << 20 && bytes <= 1 << 30
}

function hex8(value: bigint): string {
  return value.toString(16).toUpperCase().padStart(8, '0')
}
