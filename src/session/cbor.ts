/**
 * The part of CBOR (RFC 8949) that tokens are made of: counts, byte strings, lists, and maps by count, in the one form that
 * section 4.2 calls deterministic. A general encoder asks of each value what it is and sorts each map, and a general decoder
 * makes a tree of what it reads, which takes longer than everything else about a token; here writer and reader are told what
 * comes. What is written and read is what `cborg` writes and reads.
 */
const kind = { count: 0, bytes: 2, list: 4, map: 5 } as const
const sizeFirst = 1_024
/** The longest head of a value. */
const headBytesMax = 9

/** Writes into room of its own, which it keeps: one writer serves one message after the other. */
export class CborWriter {
  #bytes = Buffer.allocUnsafeSlow(sizeFirst)
  #view = viewOf(this.#bytes)
  #length = 0

  /** What was written until now; good until the writer goes on. */
  get bytes(): Buffer {
    return this.#bytes
  }

  get length(): number {
    return this.#length
  }

  restart(): void {
    this.#length = 0
  }

  /** A byte by itself, as what stands around CBOR has it. */
  byte(value: number): void {
    this.#room(1)
    this.#bytes[this.#length++] = value
  }

  /** Bytes by themselves, without a head. */
  raw(value: Uint8Array): void {
    this.#room(value.length)
    this.#bytes.set(value, this.#length)
    this.#length += value.length
  }

  /** Room for bytes that somebody else fills in: gives where it begins. */
  reserve(length: number): number {
    this.#room(length)
    this.#length += length
    return this.#length - length
  }

  /** 0 to 2^53 - 1. */
  count(value: number): void {
    this.#head(kind.count, value)
  }

  /** 0 to 2^64 - 1. */
  bigCount(value: bigint): void {
    if (value <= 0xffff_ffffn) this.#head(kind.count, Number(value))
    else this.#long(kind.count, value)
  }

  /** The head of a byte string; so many raw bytes follow. */
  byteString(length: number): void {
    this.#head(kind.bytes, length)
  }

  /** The head of a list; so many values follow. */
  list(length: number): void {
    this.#head(kind.list, length)
  }

  /** The head of a map; so many keys follow, in ascending order, each before its value. */
  map(length: number): void {
    this.#head(kind.map, length)
  }

  /** In as few bytes as hold it. */
  #head(of: number, value: number): void {
    this.#room(headBytesMax)
    const first = of << 5
    if (value < 24) this.#bytes[this.#length++] = first | value
    else if (value <= 0xff) {
      this.#bytes[this.#length++] = first | 24
      this.#bytes[this.#length++] = value
    } else if (value <= 0xffff) {
      this.#bytes[this.#length++] = first | 25
      this.#view.setUint16(this.#length, value)
      this.#length += 2
    } else if (value <= 0xffff_ffff) {
      this.#bytes[this.#length++] = first | 26
      this.#view.setUint32(this.#length, value)
      this.#length += 4
    } else this.#long(of, BigInt(value))
  }

  #long(of: number, value: bigint): void {
    this.#room(headBytesMax)
    this.#bytes[this.#length++] = (of << 5) | 27
    this.#view.setBigUint64(this.#length, value)
    this.#length += 8
  }

  #room(bytes: number): void {
    if (this.#length + bytes <= this.#bytes.length) return
    const larger = Buffer.allocUnsafeSlow(2 * (this.#length + bytes))
    larger.set(this.#bytes.subarray(0, this.#length))
    this.#bytes = larger
    this.#view = viewOf(larger)
  }
}

/** The bytes are not of this form, not in the one way in which it writes them, or not what was asked for. */
export class CborMalformed extends Error {}

/** Reads one value after the other, each as what it has to be. Throws `CborMalformed`. */
export class CborReader {
  readonly bytes: Uint8Array
  readonly #view: DataView
  #at = 0
  #end: number

  constructor(bytes: Uint8Array) {
    this.bytes = bytes
    this.#view = viewOf(bytes)
    this.#end = bytes.length
  }

  /** Reads what lies between two places from now on. */
  restart(from: number, end: number): void {
    this.#at = from
    this.#end = end
  }

  /** Where the next value begins. */
  get at(): number {
    return this.#at
  }

  /** 0 to 2^53 - 1. */
  count(): number {
    const value = this.#head(kind.count)
    if (value >= 0) return value
    const long = this.#long()
    if (long > Number.MAX_SAFE_INTEGER) throw new CborMalformed('a count past 2^53')
    return Number(long)
  }

  bigCount(): bigint {
    const value = this.#head(kind.count)
    return value < 0 ? this.#long() : BigInt(value)
  }

  /** Goes over a byte string and gives where it begins: it ends where the reader stands. */
  byteString(): number {
    const length = this.#length(kind.bytes)
    return this.#skip(length)
  }

  /** How many values follow. */
  list(): number {
    return this.#length(kind.list)
  }

  /** How many keys with their values follow; `key` reads them. */
  map(): number {
    return this.#length(kind.map)
  }

  /** Nothing may be left. */
  end(): void {
    if (this.#at !== this.#end) throw new CborMalformed('something is behind the end')
  }

  /** Each item takes a byte at least: a length that lies would have us wait for memory. */
  #length(of: number): number {
    const value = this.#head(of)
    if (value < 0 || value > this.#end - this.#at) throw new CborMalformed('cut short')
    return value
  }

  /** The number of a head; -1 where eight bytes of it follow. It must not fit into fewer bytes. */
  #head(of: number): number {
    const first = this.bytes[this.#skip(1)] ?? 0
    if (first >> 5 !== of) throw new CborMalformed(`a value of kind ${first >> 5} and not ${of}`)
    const short = first & 0x1f
    if (short < 24) return short
    if (short === 24) return atLeast(24, this.#view.getUint8(this.#skip(1)))
    if (short === 25) return atLeast(0x100, this.#view.getUint16(this.#skip(2)))
    if (short === 26) return atLeast(0x1_0000, this.#view.getUint32(this.#skip(4)))
    if (short === 27) return -1
    throw new CborMalformed(`a length of form ${short}`)
  }

  #long(): bigint {
    const value = this.#view.getBigUint64(this.#skip(8))
    if (value <= 0xffff_ffffn) throw new CborMalformed('a number in more bytes than it needs')
    return value
  }

  #skip(length: number): number {
    const start = this.#at
    if (length > this.#end - start) throw new CborMalformed('cut short')
    this.#at += length
    return start
  }
}

function atLeast(least: number, value: number): number {
  if (value < least) throw new CborMalformed('a number in more bytes than it needs')
  return value
}

function viewOf({ buffer, byteOffset, byteLength }: Uint8Array): DataView {
  return new DataView(buffer, byteOffset, byteLength)
}
