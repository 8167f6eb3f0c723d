/**
 * The part of CBOR (RFC 8949) that tokens are made of: counts, byte strings, lists, and maps by count, in the one form that
 * section 4.2 calls deterministic. A general encoder asks of each value what it is and sorts each map, which takes longer
 * than everything else about a token; here the writer is told. What is written and read is what `cborg` writes and reads.
 */
export type CborValue = number | bigint | Uint8Array | readonly CborValue[] | ReadonlyMap<number, CborValue>

const kind = { count: 0, bytes: 2, list: 4, map: 5 } as const
const sizeFirst = 256
/** A token has lists in a list in a map. */
const depthMax = 4

export class CborWriter {
  #bytes = Buffer.allocUnsafe(sizeFirst)
  #length = 0

  /** 0 to 2^64 - 1. */
  count(value: number | bigint): void {
    this.#head(kind.count, value)
  }

  bytes(value: Uint8Array): void {
    this.#head(kind.bytes, value.length)
    this.#room(value.length)
    this.#bytes.set(value, this.#length)
    this.#length += value.length
  }

  /** The head of a list; so many values follow. */
  list(length: number): void {
    this.#head(kind.list, length)
  }

  /** The head of a map; so many keys follow, in ascending order, each before its value. */
  map(length: number): void {
    this.#head(kind.map, length)
  }

  /** What was written; the writer is of no use any more. */
  end(): Buffer {
    return this.#bytes.subarray(0, this.#length)
  }

  /** In as few bytes as hold it. */
  #head(of: number, value: number | bigint): void {
    this.#room(9)
    const first = of << 5
    if (value < 24) this.#bytes[this.#length++] = first | Number(value)
    else if (value <= 0xff) {
      this.#bytes[this.#length++] = first | 24
      this.#bytes[this.#length++] = Number(value)
    } else if (value <= 0xffff) {
      this.#bytes[this.#length++] = first | 25
      this.#length = this.#bytes.writeUInt16BE(Number(value), this.#length)
    } else if (value <= 0xffff_ffff) {
      this.#bytes[this.#length++] = first | 26
      this.#length = this.#bytes.writeUInt32BE(Number(value), this.#length)
    } else {
      this.#bytes[this.#length++] = first | 27
      this.#length = this.#bytes.writeBigUInt64BE(BigInt(value), this.#length)
    }
  }

  #room(bytes: number): void {
    if (this.#length + bytes <= this.#bytes.length) return
    const larger = Buffer.allocUnsafe(2 * (this.#length + bytes))
    larger.set(this.#bytes.subarray(0, this.#length))
    this.#bytes = larger
  }
}

/** The bytes are not of this form, or not in the one way in which it writes them. */
export class CborMalformed extends Error {}

/** One value, and nothing behind it. Counts past 2^53 are `bigint`. Throws `CborMalformed`. */
export function readCbor(bytes: Buffer): CborValue {
  const reader = new CborReader(bytes)
  const value = reader.value(depthMax)
  if (!reader.atEnd) throw new CborMalformed('something is behind the end')
  return value
}

class CborReader {
  readonly #bytes: Buffer
  #at = 0

  constructor(bytes: Buffer) {
    this.#bytes = bytes
  }

  get atEnd(): boolean {
    return this.#at === this.#bytes.length
  }

  value(depth: number): CborValue {
    if (depth === 0) throw new CborMalformed('too deep')
    const first = this.#bytes[this.#skip(1)] ?? 0
    const size = this.#size(first & 0x1f)
    switch (first >> 5) {
      case kind.count:
        return size
      case kind.bytes: {
        const at = this.#skip(Number(size))
        return this.#bytes.subarray(at, this.#at)
      }
      case kind.list: {
        const list: CborValue[] = []
        for (let left = this.#items(size); left > 0; left -= 1) list.push(this.value(depth - 1))
        return list
      }
      case kind.map:
        return this.#map(this.#items(size), depth)
      default:
        throw new CborMalformed(`a value of kind ${first >> 5}`)
    }
  }

  #map(length: number, depth: number): ReadonlyMap<number, CborValue> {
    const map = new Map<number, CborValue>()
    let last = -1
    for (let left = length; left > 0; left -= 1) {
      const key = this.value(1)
      if (typeof key !== 'number' || key <= last) throw new CborMalformed('the keys of a map are counts, in order')
      last = key
      map.set(key, this.value(depth - 1))
    }
    return map
  }

  /** The number behind a first byte, which must not fit into fewer bytes. */
  #size(short: number): number | bigint {
    if (short < 24) return short
    switch (short) {
      case 24:
        return this.#atLeast(24, this.#bytes[this.#skip(1)] ?? 0)
      case 25:
        return this.#atLeast(0x100, this.#bytes.readUInt16BE(this.#skip(2)))
      case 26:
        return this.#atLeast(0x1_0000, this.#bytes.readUInt32BE(this.#skip(4)))
      case 27: {
        const value = this.#bytes.readBigUInt64BE(this.#skip(8))
        if (value <= 0xffff_ffffn) throw new CborMalformed('a number in more bytes than it needs')
        return value <= Number.MAX_SAFE_INTEGER ? Number(value) : value
      }
      default:
        throw new CborMalformed(`a length of form ${short}`)
    }
  }

  #atLeast(least: number, value: number): number {
    if (value < least) throw new CborMalformed('a number in more bytes than it needs')
    return value
  }

  /** Each item takes a byte at least: a length that lies would have us wait for memory. */
  #items(size: number | bigint): number {
    if (size > this.#bytes.length - this.#at) throw new CborMalformed('cut short')
    return Number(size)
  }

  #skip(length: number): number {
    const start = this.#at
    if (length > this.#bytes.length - start) throw new CborMalformed('cut short')
    this.#at += length
    return start
  }
}
