import { createHash } from 'node:crypto'
import { decode, encode } from 'cborg'
import { assert, present } from '../base/assert.ts'
import { HoldfastError } from '../base/errors.ts'
import type { ShardName, TransactionId } from '../directory/topology.ts'
import type { Hlc } from '../hlc/hlc.ts'
import { toHlc } from '../hlc/hlc.ts'
import type { Lsn } from '../postgres/lsn.ts'
import { toLsn } from '../postgres/lsn.ts'
import type { RedoIdentity, RedoTransaction, RelationShape, RowChange } from './redo-transaction.ts'
import { relationName } from './redo-transaction.ts'
import type { RowValues } from './row-image.ts'
import { toImage, toValues } from './row-image.ts'

/**
 * A file of the redo stream.
 *
 *     "HFREDO"  version u8  codec u8
 *     { length u32   digest 32 bytes   record in CBOR, `length` bytes } ...
 *
 * A digest is the SHA-256 of the digest before it and the record, so no record can be changed, left out or moved
 * without all that follow saying so. The first record is the header: with it a segment can be read without those
 * before it. A file may end within a record, after a crash or while another process writes it.
 *
 * Codec 0 stores records as they are; others are for later versions.
 */
export const redoMagic = Buffer.from([...Buffer.from('HFREDO'), 1, 0])

export type RedoRecord =
  | ({ readonly kind: 'header' } & RedoSegmentHeader)
  /** How a relation looks in the transactions from here on. Shapes are numbered as they come, those of the header first. */
  | { readonly kind: 'shape'; readonly shape: RelationShape }
  | {
      readonly kind: 'transaction'
      readonly transaction: RedoTransaction
      /** Of each change: a relation that is changed in between has several (A7). */
      readonly shapes: readonly RelationShape[]
    }
  /** Everything that ended at or before `lsn` is in the stream, and with it all at or below the closed timestamp. */
  | { readonly kind: 'through'; readonly lsn: Lsn; readonly closedTimestamp: Hlc }

export interface RedoSegmentHeader {
  readonly shard: ShardName
  readonly systemId: string
  readonly timeline: number
  /** Transactions that ended at or before it are not in this segment. */
  readonly start: Lsn
  /** Since where the stream has no hole; `start` when what lies before it is missing. */
  readonly from: Lsn
  /** No transaction that ended at or before `from` has a timestamp above it; null in a segment of an earlier version. */
  readonly clockAtFrom: Hlc | null
  /** The digest of the last record before this segment; null when there is none. */
  readonly previous: Uint8Array | null
  readonly closedTimestamp: Hlc
  readonly highestStamp: Hlc
  /** Decisions whose branches had not been settled before `start`. */
  readonly decided: readonly (readonly [TransactionId, Hlc])[]
  /** Of every relation that had rows in the stream before `start`. */
  readonly shapes: readonly RelationShape[]
}

const prefixBytes = 36
const noDigest: Uint8Array = new Uint8Array(32)

/** Turns the records of one segment into bytes, each bound to the one before. */
export class RedoEncoder {
  /** Their numbers. */
  readonly #shapes = new Map<RelationShape, number>()
  #shapeCount = 0
  #digest: Uint8Array = noDigest

  get digest(): Uint8Array {
    return this.#digest
  }

  encode(record: RedoRecord): Buffer {
    const payload = encode(this.#toPlain(record))
    this.#digest = digestOf(this.#digest, payload)
    const prefix = Buffer.alloc(prefixBytes)
    prefix.writeUInt32BE(payload.length)
    prefix.set(this.#digest, 4)
    return Buffer.concat([prefix, payload])
  }

  /** One that is equal to another is the same from here on. */
  rename(known: RelationShape, shape: RelationShape): void {
    this.#shapes.set(shape, this.#indexOf(known))
  }

  #toPlain(record: RedoRecord): unknown {
    switch (record.kind) {
      case 'header':
        for (const shape of record.shapes) this.#learn(shape)
        return { ...record }
      case 'shape':
        this.#learn(record.shape)
        return ['s', record.shape]
      case 'through':
        return ['p', record.lsn, record.closedTimestamp]
      case 'transaction': {
        const { commitLsn, endLsn, xid, committedAtMs, identity, changes } = record.transaction
        return [
          't',
          commitLsn,
          endLsn,
          xid,
          committedAtMs,
          identity,
          changes.map((change, index) =>
            this.#plainChange(change, present(record.shapes[index], 'a change has a shape')),
          ),
        ]
      }
    }
  }

  #learn(shape: RelationShape): void {
    this.#shapes.set(shape, this.#shapeCount++)
  }

  #indexOf(shape: RelationShape): number {
    return present(this.#shapes.get(shape), 'the shape of a relation comes before its rows')
  }

  #plainChange(change: RowChange, shape: RelationShape): unknown {
    const index = this.#indexOf(shape)
    switch (change.op) {
      case 'insert':
        return ['i', index, toValues(shape, change.after)]
      case 'update':
        return ['u', index, toValues(shape, change.before), toValues(shape, change.after)]
      case 'delete':
        return ['d', index, toValues(shape, change.before)]
      case 'truncate':
        return ['t', index]
    }
  }
}

/** The end of the whole records of a segment. */
export interface RedoSegmentEnd {
  readonly digest: Uint8Array
  /** `cut`: a record is not there to its end. `damaged`: bytes are there that are not what was written. */
  readonly tail: 'clean' | 'cut' | 'damaged'
}

/**
 * Reads the records of a segment in order; returns where they end. Throws `check_failed` when the file
 * has no readable header: it was stored durably before anything else.
 */
export function* readRecords(
  bytes: Buffer,
  name: string,
): Generator<RedoRecord & { readonly digest: Uint8Array }, RedoSegmentEnd> {
  if (bytes.length < redoMagic.length || !bytes.subarray(0, redoMagic.length).equals(redoMagic)) {
    throw new HoldfastError('check_failed', `${name} is not a segment of the redo stream that this version reads`)
  }
  let header: RedoSegmentHeader | undefined
  const shapes: RelationShape[] = []
  let digest = noDigest
  let at = redoMagic.length
  let tail: RedoSegmentEnd['tail'] = 'clean'
  while (at < bytes.length) {
    const next = readPrefixed(bytes, at, digest)
    if (typeof next === 'string') {
      tail = next
      break
    }
    const record = fromPlain(decode(next.payload), header, shapes)
    if (record.kind === 'header') {
      header = record
      shapes.push(...record.shapes)
    }
    if (record.kind === 'shape') shapes.push(record.shape)
    digest = next.digest
    at = next.end
    yield { ...record, digest }
  }
  if (header === undefined) throw new HoldfastError('check_failed', `${name} has no readable header`)
  return { digest, tail }
}

function readPrefixed(bytes: Buffer, at: number, before: Uint8Array) {
  if (at + prefixBytes > bytes.length) return 'cut'
  const end = at + prefixBytes + bytes.readUInt32BE(at)
  if (end > bytes.length) return 'cut'
  const payload = bytes.subarray(at + prefixBytes, end)
  const digest = digestOf(before, payload)
  if (!bytes.subarray(at + 4, at + prefixBytes).equals(digest)) return 'damaged'
  return { payload, digest, end }
}

function digestOf(before: Uint8Array, payload: Uint8Array): Uint8Array {
  return createHash('sha256').update(before).update(payload).digest()
}

/** The form is trusted, since the digest has matched. */
function fromPlain(
  plain: unknown,
  header: RedoSegmentHeader | undefined,
  shapes: readonly RelationShape[],
): RedoRecord {
  if (!Array.isArray(plain)) return toHeader(plain as PlainHeader)
  const shard = present(header, 'the header is the first record').shard
  switch (plain[0]) {
    case 's':
      return { kind: 'shape', shape: plain[1] as RelationShape }
    case 'p':
      return { kind: 'through', lsn: lsnOf(plain[1]), closedTimestamp: hlcOf(plain[2]) }
    case 't': {
      const [, commitLsn, endLsn, xid, committedAtMs, identity, changes] = plain as PlainTransaction
      const transaction = {
        shard,
        commitLsn: lsnOf(commitLsn),
        endLsn: lsnOf(endLsn),
        xid,
        committedAtMs,
        identity: toIdentity(identity),
        changes: changes.map((change) => toChange(change, shapes)),
      }
      return { kind: 'transaction', transaction, shapes: changes.map((change) => shapeOf(change, shapes)) }
    }
    default:
      assert(false, `an unknown record ${String(plain[0])} has a digest that matches`)
  }
}

/** CBOR gives small whole numbers as `number`, whatever they were. */
type Whole = number | bigint

interface PlainHeader
  extends Omit<RedoSegmentHeader, 'start' | 'from' | 'clockAtFrom' | 'closedTimestamp' | 'highestStamp' | 'decided'> {
  readonly kind: 'header'
  readonly start: Whole
  readonly from: Whole
  readonly clockAtFrom?: Whole | null
  readonly closedTimestamp: Whole
  readonly highestStamp: Whole
  readonly decided: readonly (readonly [TransactionId, Whole])[]
}

type PlainTransaction = [string, Whole, Whole, number, number, PlainIdentity, PlainChange[]]
type PlainIdentity = RedoIdentity & { readonly commitTimestamp?: Whole; readonly after?: Whole }
type PlainChange = readonly [string, number, RowValues, RowValues]

function toHeader(plain: PlainHeader): RedoRecord {
  return {
    ...plain,
    start: lsnOf(plain.start),
    from: lsnOf(plain.from),
    clockAtFrom: plain.clockAtFrom == null ? null : hlcOf(plain.clockAtFrom),
    closedTimestamp: hlcOf(plain.closedTimestamp),
    highestStamp: hlcOf(plain.highestStamp),
    decided: plain.decided.map(([id, stamp]) => [id, hlcOf(stamp)] as const),
  }
}

function toIdentity(plain: PlainIdentity): RedoIdentity {
  return plain.kind === 'home' || plain.kind === 'branch'
    ? { ...plain, commitTimestamp: hlcOf(plain.commitTimestamp) }
    : { ...plain, after: hlcOf(plain.after) }
}

function shapeOf([, index]: PlainChange, shapes: readonly RelationShape[]): RelationShape {
  return present(shapes[index], 'a shape comes before its rows')
}

function toChange(change: PlainChange, shapes: readonly RelationShape[]): RowChange {
  const [op, , first, second] = change
  const shape = shapeOf(change, shapes)
  const relation = relationName(shape)
  switch (op) {
    case 'i':
      return { op: 'insert', relation, after: toImage(shape, first) }
    case 'u':
      return { op: 'update', relation, before: toImage(shape, first), after: toImage(shape, second) }
    case 'd':
      return { op: 'delete', relation, before: toImage(shape, first) }
    default:
      return { op: 'truncate', relation }
  }
}

function lsnOf(value: unknown): Lsn {
  return toLsn(BigInt(value as Whole))
}

function hlcOf(value: unknown): Hlc {
  return toHlc(BigInt(value as Whole))
}
