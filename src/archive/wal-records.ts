import { assert } from '../base/assert.ts'
import type { Lsn } from '../postgres/lsn.ts'
import { toLsn } from '../postgres/lsn.ts'
import { crc32c } from './crc32c.ts'

/**
 * Finds the end of the log in bytes that may stop anywhere.
 *
 * The length of a file says how much was written, not how much of it makes sense: a record may be cut, and after a
 * crash of the machine there may be zeros. PostgreSQL decides by walking the records and their checksums, and so
 * does this (`src/backend/access/transam/xlogreader.c`; formats in `xlog_internal.h` and `xlogrecord.h`, unchanged
 * from version 15 to 18).
 */
export interface WalExtent {
  /** The end of the last whole record; the start of the bytes when there is none. */
  readonly end: Lsn
  /** Where that record starts. */
  readonly lastRecord: Lsn | null
}

const pageBytes = 8192
const shortHeaderBytes = 24
export const longHeaderBytes = 40
const recordHeaderBytes = 24
const checksumOffset = 20
const recordBytesMax = 1 << 30

const flags = { continues: 0x0001, longHeader: 0x0002, overwritesBroken: 0x0008 } as const
const switchRecord = { resourceManager: 0, info: 0x40 } as const

/** Walks the records in `bytes`, which begin at the start of a segment and may span several. */
export function walExtent(bytes: Buffer, start: Lsn, segmentBytes: number): WalExtent {
  assert(start % BigInt(segmentBytes) === 0n, 'the bytes begin with a segment')
  const pages = new WalPages(bytes, start)
  let extent: WalExtent = { end: start, lastRecord: null }
  let at = pages.skipContinuation()
  while (at !== undefined) {
    const record = pages.recordAt(at)
    if (record === undefined) break
    if ('resumesAt' in record) {
      at = pages.contentAt(record.resumesAt)
      continue
    }
    const end = record.isSwitch ? roundUp(record.end, segmentBytes) : roundUp(record.end, 8)
    extent = { end: toLsn(start + BigInt(end)), lastRecord: toLsn(start + BigInt(at)) }
    at = pages.contentAt(end)
  }
  return extent
}

/** What the first page of a segment says: whose log it is and from where. Undefined when it is not the first page of one. */
export function segmentHeader(bytes: Buffer): { start: Lsn; systemId: string; segmentBytes: number } | undefined {
  if (bytes.length < longHeaderBytes || !isPage(bytes, 0) || !(bytes.readUInt16LE(2) & flags.longHeader))
    return undefined
  return {
    start: toLsn(bytes.readBigUInt64LE(8)),
    systemId: bytes.readBigUInt64LE(24).toString(),
    segmentBytes: bytes.readUInt32LE(32),
  }
}

/**
 * The position before a page header when `lsn` lies just behind one. PostgreSQL names the place of the next record
 * either way; there is nothing between the two.
 */
export function beforePageHeader(lsn: Lsn, segmentBytes: number): Lsn {
  const within = lsn % BigInt(pageBytes)
  const header = lsn % BigInt(segmentBytes) < BigInt(pageBytes) ? longHeaderBytes : shortHeaderBytes
  return within <= BigInt(header) ? toLsn(lsn - within) : lsn
}

interface WholeRecord {
  readonly end: number
  /** The server left the rest of the segment empty. */
  readonly isSwitch: boolean
}

class WalPages {
  readonly #bytes: Buffer
  readonly #start: Lsn
  #previous: bigint | undefined

  constructor(bytes: Buffer, start: Lsn) {
    this.#bytes = bytes
    this.#start = start
  }

  /** Where the first record starts that does not come from before these bytes. */
  skipContinuation(): number | undefined {
    for (let page = 0; this.#isPageAt(page); page += pageBytes) {
      const content = page + this.#headerBytes(page)
      if (!(this.#flags(page) & flags.continues)) return content
      const rest = this.#bytes.readUInt32LE(page + 16)
      if (content + rest <= page + pageBytes) return this.contentAt(roundUp(content + rest, 8))
    }
    return undefined
  }

  /** The place of the next record at or behind an aligned place: a page begins with its header. */
  contentAt(at: number): number | undefined {
    if (at % pageBytes !== 0) return at
    return this.#isPageAt(at) ? at + this.#headerBytes(at) : undefined
  }

  /** Undefined: the log ends here. `resumesAt`: a crash cut the record, and the server went on at that page. */
  recordAt(at: number): WholeRecord | { readonly resumesAt: number } | undefined {
    if (at + 4 > this.#bytes.length) return undefined
    const length = this.#bytes.readUInt32LE(at)
    if (length < recordHeaderBytes || length > recordBytesMax) return undefined
    const parts: Buffer[] = []
    let from = at
    for (let left = length; ; ) {
      const pageEnd = roundUp(from + 1, pageBytes)
      const take = Math.min(left, pageEnd - from)
      if (from + take > this.#bytes.length) return undefined
      parts.push(this.#bytes.subarray(from, from + take))
      left -= take
      from += take
      if (left === 0) break
      if (!this.#isPageAt(pageEnd)) return undefined
      if (this.#flags(pageEnd) & flags.overwritesBroken) return { resumesAt: pageEnd }
      if (!(this.#flags(pageEnd) & flags.continues)) return undefined
      if (this.#bytes.readUInt32LE(pageEnd + 16) !== left) return undefined
      from = pageEnd + this.#headerBytes(pageEnd)
    }
    return this.#checked(parts.length === 1 && parts[0] ? parts[0] : Buffer.concat(parts), at, from)
  }

  #checked(record: Buffer, at: number, end: number): WholeRecord | undefined {
    const previous = record.readBigUInt64LE(8)
    if (this.#previous !== undefined && previous !== this.#previous) return undefined
    const crc = crc32c(record.subarray(0, checksumOffset), crc32c(record.subarray(recordHeaderBytes)))
    if (crc !== record.readUInt32LE(checksumOffset)) return undefined
    this.#previous = this.#start + BigInt(at)
    const isSwitch = record[17] === switchRecord.resourceManager && ((record[16] ?? 0) & 0xf0) === switchRecord.info
    return { end, isSwitch }
  }

  #isPageAt(page: number): boolean {
    return (
      page + shortHeaderBytes <= this.#bytes.length &&
      isPage(this.#bytes, page) &&
      this.#bytes.readBigUInt64LE(page + 8) === this.#start + BigInt(page)
    )
  }

  #flags(page: number): number {
    return this.#bytes.readUInt16LE(page + 2)
  }

  #headerBytes(page: number): number {
    return this.#flags(page) & flags.longHeader ? longHeaderBytes : shortHeaderBytes
  }
}

/** Every version so far marks its pages with 0xD1 and a number of its own. */
function isPage(bytes: Buffer, page: number): boolean {
  return bytes[page + 1] === 0xd1
}

function roundUp(value: number, multiple: number): number {
  return Math.ceil(value / multiple) * multiple
}
