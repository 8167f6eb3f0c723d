import type { Epoch, HistoryId, ShardName, TransactionId } from '../directory/topology.ts'
import type { Hlc } from '../hlc/hlc.ts'
import { hlcZero, toHlc } from '../hlc/hlc.ts'
import type { Lsn } from '../postgres/lsn.ts'
import { toLsn } from '../postgres/lsn.ts'
import type { CborReader } from './cbor.ts'
import { CborMalformed } from './cbor.ts'
import type { HistoryFrontier, PendingBranch, ShardFrontier } from './frontier.ts'
import { historiesMax, lastIdsMax, pendingMax } from './frontier.ts'
import type { TokenBody } from './token-payload.ts'
import { countMask, flag, key, rowHead } from './token-payload.ts'
import { readUuid } from './uuid-bytes.ts'

const flagsMax = 0x7f
/** One position at a time is put together here. */
const position = new DataView(new ArrayBuffer(8))

/** Why a payload that carries a valid signature is none; the caller makes it `token_malformed`. */
export class PayloadMalformed extends Error {}

/** A payload names a shard that is not in the map. */
export class ShardUnknown extends Error {}

/** Reads the payload that the reader stands at. Throws `PayloadMalformed` and `ShardUnknown`. */
export function readPayload(cbor: CborReader, shards: ReadonlyMap<number, ShardName>): TokenBody {
  try {
    return new PayloadReader(cbor).read(shards)
  } catch (error) {
    if (!(error instanceof CborMalformed)) throw error
    throw new PayloadMalformed(`not the CBOR of a frontier: ${error.message}`, { cause: error })
  }
}

class PayloadReader {
  readonly #cbor: CborReader
  #timestamp = hlcZero
  /** Where the ids begin, behind one history for each row, and how many they are. */
  #idsAt = 0
  #idCount = 0
  readonly #ids: TransactionId[] = []
  /** Branches, whose timestamps come behind the rows that name them, and which of the timestamps each has. */
  readonly #branches: { transactionId: TransactionId; timestamp: Hlc }[] = []
  readonly #indexes: number[] = []

  constructor(cbor: CborReader) {
    this.#cbor = cbor
  }

  read(shards: ReadonlyMap<number, ShardName>): TokenBody {
    const cbor = this.#cbor
    const keys = cbor.map()
    if (keys !== 5 && keys !== 6) throw new PayloadMalformed(`a map of ${keys}`)
    this.#expect(key.issuedAt)
    const issuedAtSeconds = cbor.count()
    this.#expect(key.lifetime)
    const lifetimeSeconds = cbor.count()
    this.#expect(key.timestamp)
    this.#timestamp = this.#hlc()
    this.#expect(key.uuids)
    const uuidsAt = cbor.byteString()
    const uuidsLength = cbor.at - uuidsAt
    this.#expect(key.rows)
    const rows = cbor.list()
    this.#idsAt = uuidsAt + 16 * rows
    this.#idCount = (uuidsLength - 16 * rows) / 16
    if (this.#idCount < 0) throw new PayloadMalformed('a row has no history')
    if (!Number.isInteger(this.#idCount)) throw new PayloadMalformed('not a list of UUIDs')
    const byShard = new Map<ShardName, ShardFrontier>()
    for (let row = 0; row < rows; row += 1) this.#row(uuidsAt + 16 * row, shards, byShard)
    if (keys === 6) this.#branchTimestamps()
    else if (this.#branches.length > 0) throw new PayloadMalformed('a branch without a timestamp')
    cbor.end()
    return { issuedAtSeconds, lifetimeSeconds, frontier: { timestamp: this.#timestamp, shards: byShard } }
  }

  #row(historyAt: number, shards: ReadonlyMap<number, ShardName>, byShard: Map<ShardName, ShardFrontier>): void {
    const cbor = this.#cbor
    const length = cbor.list()
    const ref = cbor.count()
    const shard = shards.get(ref)
    if (shard === undefined) throw new ShardUnknown(`no shard has the short form ${ref}`)
    const placementVersion = cbor.count()
    const epoch = cbor.count() as Epoch
    const replayed = this.#lsn()
    const flags = cbor.count()
    const hasSeen = (flags & flag.seen) !== 0
    const lastCount = flags & countMask
    const pendingCount = length - rowHead - lastCount - (hasSeen ? 1 : 0)
    if (flags > flagsMax || lastCount > lastIdsMax || pendingCount < 0) throw new PayloadMalformed('bad flags')
    if (pendingCount > pendingMax) throw new PayloadMalformed('too many branches of one shard')
    const lastTransactionIds: TransactionId[] = []
    for (let left = lastCount; left > 0; left -= 1) lastTransactionIds.push(this.#id(cbor.count()))
    const pending: PendingBranch[] = []
    for (let left = pendingCount; left > 0; left -= 1) pending.push(this.#branch(cbor.count()))
    const history: HistoryFrontier = {
      historyId: readUuid(this.#cbor.bytes, historyAt) as HistoryId,
      epoch,
      position: replayed,
      lastTransactionIds,
      idsSuffice: (flags & flag.idsSuffice) !== 0,
      seenTimestamp: hasSeen ? this.#timeBefore() : undefined,
      pending,
      pendingForgotten: (flags & flag.pendingForgotten) !== 0,
    }
    const histories = [...(byShard.get(shard)?.histories ?? []), history]
    if (histories.length > historiesMax) throw new PayloadMalformed('too many histories of one shard')
    const historiesForgotten = (flags & flag.historiesForgotten) !== 0
    byShard.set(shard, { placementVersion, histories, historiesForgotten })
  }

  #id(index: number): TransactionId {
    if (index >= this.#idCount) throw new PayloadMalformed(`no entry ${index} in the table`)
    this.#ids[index] ??= readUuid(this.#cbor.bytes, this.#idsAt + 16 * index) as TransactionId
    return this.#ids[index]
  }

  #branch(index: number): PendingBranch {
    const branch = { transactionId: this.#id(index), timestamp: hlcZero }
    this.#branches.push(branch)
    this.#indexes.push(index)
    return branch
  }

  #branchTimestamps(): void {
    this.#expect(key.branchTimestamps)
    const timestamps: Hlc[] = []
    for (let left = this.#cbor.list(); left > 0; left -= 1) timestamps.push(this.#timeBefore())
    for (const [at, branch] of this.#branches.entries()) {
      const timestamp = timestamps[this.#indexes[at] ?? 0]
      if (timestamp === undefined) throw new PayloadMalformed('a branch without a timestamp')
      branch.timestamp = timestamp
    }
  }

  #expect(expected: number): void {
    const found = this.#cbor.count()
    if (found !== expected) throw new PayloadMalformed(`${found} where ${expected} has its place`)
  }

  #hlc(): Hlc {
    const hlc = this.#cbor.bigCount()
    if (hlc > 0x7fff_ffff_ffff_ffffn) throw new PayloadMalformed('not a timestamp')
    return toHlc(hlc)
  }

  #timeBefore(): Hlc {
    const before = this.#hlc()
    if (before > this.#timestamp) throw new PayloadMalformed('a timestamp before all time')
    return toHlc(this.#timestamp - before)
  }

  #lsn(): Lsn {
    const from = this.#cbor.byteString()
    const end = this.#cbor.at
    if (end - from > 8 || (end > from && this.#cbor.bytes[from] === 0)) throw new PayloadMalformed('not a position')
    position.setBigUint64(0, 0n)
    for (let at = from; at < end; at += 1) position.setUint8(8 - end + at, this.#cbor.bytes[at] ?? 0)
    return toLsn(position.getBigUint64(0))
  }
}
