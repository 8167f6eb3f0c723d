import { assert, present } from '../base/assert.ts'
import type { Epoch, HistoryId, ShardName, TransactionId } from '../directory/topology.ts'
import type { Hlc } from '../hlc/hlc.ts'
import { toHlc } from '../hlc/hlc.ts'
import type { Lsn } from '../postgres/lsn.ts'
import { toLsn } from '../postgres/lsn.ts'
import type { CborValue } from './cbor.ts'
import { CborMalformed, CborWriter, readCbor } from './cbor.ts'
import type { Frontier, HistoryFrontier, PendingBranch, ShardFrontier } from './frontier.ts'
import { historiesMax, lastIdsMax, pendingMax } from './frontier.ts'
import { refOfShard } from './shard-refs.ts'
import { readUuid, writeUuid } from './uuid-bytes.ts'

/**
 * What a token says, in deterministic CBOR (RFC 8949, section 4.2).
 *
 *     { 1: issued at, s · 2: lifetime, s · 3: timestamp of the frontier
 *       4: UUIDs, 16 bytes each: the history of each row, then every transaction id once
 *       5: rows [shard ref, placement version, epoch, position, flags, index of a transaction id ..., seen?]
 *       6: timestamps of the first so many transaction ids, which are those of the branches; absent when none }
 *
 * Ids stand in one table because a global transaction is the last one, or a pending one, on several shards. Timestamps
 * are written as what they lie before the frontier's, which most often is little or nothing.
 */
export interface TokenBody {
  readonly issuedAtSeconds: number
  readonly lifetimeSeconds: number
  readonly frontier: Frontier
}

const key = { issuedAt: 1, lifetime: 2, timestamp: 3, uuids: 4, rows: 5, branchTimestamps: 6 } as const

/** Bits 0 to 2 of the flags count the last ids; the indexes behind them are branches. */
const countMask = 0b111
const flag = { idsSuffice: 0x08, seen: 0x10, pendingForgotten: 0x20, historiesForgotten: 0x40 } as const
const flagsMax = 0x7f
const rowHead = 5

export function encodePayload({ issuedAtSeconds, lifetimeSeconds, frontier }: TokenBody): Buffer {
  const entries = entriesOf(frontier)
  const ids = tableOfIds(entries)
  const writer = new CborWriter()
  writer.map(ids.branches.length === 0 ? 5 : 6)
  writer.count(key.issuedAt)
  writer.count(issuedAtSeconds)
  writer.count(key.lifetime)
  writer.count(lifetimeSeconds)
  writer.count(key.timestamp)
  writer.count(frontier.timestamp)
  writer.count(key.uuids)
  writer.bytes(uuidsOf(entries, ids.all))
  writer.count(key.rows)
  writer.list(entries.length)
  for (const entry of entries) writeRow(writer, entry, frontier.timestamp, ids.all)
  if (ids.branches.length > 0) {
    writer.count(key.branchTimestamps)
    writer.list(ids.branches.length)
    for (const branch of ids.branches) writer.count(timeBefore(frontier.timestamp, branch.timestamp))
  }
  return writer.end()
}

interface Entry {
  readonly ref: number
  readonly of: ShardFrontier
  readonly history: HistoryFrontier
}

function entriesOf(frontier: Frontier): Entry[] {
  const entries: Entry[] = []
  for (const [shard, of] of frontier.shards) {
    const ref = refOfShard(shard)
    for (const history of of.histories) entries.push({ ref, of, history })
  }
  return entries.length > 1 ? entries.sort((a, b) => a.ref - b.ref) : entries
}

function uuidsOf(entries: readonly Entry[], ids: readonly TransactionId[]): Buffer {
  const bytes = Buffer.allocUnsafe(16 * (entries.length + ids.length))
  let at = 0
  for (const { history } of entries) at = writeUuid(bytes, at, history.historyId)
  for (const id of ids) at = writeUuid(bytes, at, id)
  return bytes
}

function writeRow(writer: CborWriter, entry: Entry, timestamp: Hlc, ids: readonly TransactionId[]): void {
  const { ref, of, history } = entry
  const { lastTransactionIds, pending, seenTimestamp } = history
  const indexOf = (id: TransactionId) => {
    const index = ids.indexOf(id)
    assert(index >= 0, 'every id of a row is in the table')
    return index
  }
  writer.list(rowHead + lastTransactionIds.length + pending.length + (seenTimestamp === undefined ? 0 : 1))
  writer.count(ref)
  writer.count(of.placementVersion)
  writer.count(history.epoch)
  writer.bytes(lsnToBytes(history.position))
  writer.count(
    lastTransactionIds.length |
      (history.idsSuffice ? flag.idsSuffice : 0) |
      (seenTimestamp === undefined ? 0 : flag.seen) |
      (history.pendingForgotten ? flag.pendingForgotten : 0) |
      (of.historiesForgotten ? flag.historiesForgotten : 0),
  )
  for (const id of lastTransactionIds) writer.count(indexOf(id))
  for (const { transactionId } of pending) writer.count(indexOf(transactionId))
  if (seenTimestamp !== undefined) writer.count(timeBefore(timestamp, seenTimestamp))
}

/** Branches first, since they have timestamps; within each part in order, so that equal frontiers make equal bytes. */
function tableOfIds(entries: readonly Entry[]): { all: TransactionId[]; branches: PendingBranch[] } {
  const branchesById = new Map<TransactionId, PendingBranch>()
  const others = new Set<TransactionId>()
  for (const { history } of entries) {
    for (const branch of history.pending) branchesById.set(branch.transactionId, branch)
    for (const id of history.lastTransactionIds) others.add(id)
  }
  for (const id of branchesById.keys()) others.delete(id)
  const branches = inOrder([...branchesById.values()], (branch) => branch.transactionId)
  return { all: [...branches.map((branch) => branch.transactionId), ...inOrder([...others], (id) => id)], branches }
}

function inOrder<T>(list: T[], textOf: (one: T) => string): T[] {
  return list.length > 1 ? list.sort((a, b) => (textOf(a) < textOf(b) ? -1 : 1)) : list
}

function timeBefore(timestamp: Hlc, earlier: Hlc): bigint {
  assert(earlier <= timestamp, 'the timestamp of a frontier is the greatest in it')
  return timestamp - earlier
}

/** Why a payload that carries a valid signature is none; the caller makes it `token_malformed`. */
export class PayloadMalformed extends Error {}

/** A payload names a shard that is not in the map. */
export class ShardUnknown extends Error {}

export function decodePayload(bytes: Buffer, shards: ReadonlyMap<number, ShardName>): TokenBody {
  const payload = readMap(bytes)
  const timestamp = readHlc(payload.get(key.timestamp))
  const rows = readArray(payload.get(key.rows))
  const uuids = readUuids(payload.get(key.uuids))
  if (uuids.length < rows.length) throw new PayloadMalformed('a row has no history')
  const times = payload.get(key.branchTimestamps)
  const tables = {
    timestamp,
    ids: uuids.slice(rows.length),
    branchTimestamps: times === undefined ? [] : readArray(times).map((value) => readTimeBefore(value, timestamp)),
  }
  const byShard = new Map<ShardName, ShardFrontier>()
  for (let index = 0; index < rows.length; index += 1) {
    const row = readArray(rows[index])
    const ref = readCount(row[0])
    const shard = shards.get(ref)
    if (shard === undefined) throw new ShardUnknown(`no shard has the short form ${ref}`)
    const { of, history } = decodeRow(row, present(uuids[index], 'one history a row'), tables)
    const before = byShard.get(shard)
    const histories = before === undefined ? [history] : [...before.histories, history]
    if (histories.length > historiesMax) throw new PayloadMalformed('too many histories of one shard')
    byShard.set(shard, { ...of, histories })
  }
  return {
    issuedAtSeconds: readCount(payload.get(key.issuedAt)),
    lifetimeSeconds: readCount(payload.get(key.lifetime)),
    frontier: { timestamp, shards: byShard },
  }
}

interface Tables {
  readonly timestamp: Hlc
  readonly ids: readonly string[]
  readonly branchTimestamps: readonly Hlc[]
}

function decodeRow(
  row: readonly CborValue[],
  historyId: string,
  tables: Tables,
): { of: Omit<ShardFrontier, 'histories'>; history: HistoryFrontier } {
  const flags = readCount(row[4])
  const hasSeen = (flags & flag.seen) !== 0
  const indexes = row.slice(rowHead, hasSeen ? -1 : undefined).map(readCount)
  const lastCount = flags & countMask
  if (flags > flagsMax || lastCount > lastIdsMax || indexes.length < lastCount) throw new PayloadMalformed('bad flags')
  if (indexes.length - lastCount > pendingMax) throw new PayloadMalformed('too many branches of one shard')
  return {
    of: { placementVersion: readCount(row[1]), historiesForgotten: (flags & flag.historiesForgotten) !== 0 },
    history: {
      historyId: historyId as HistoryId,
      epoch: readCount(row[2]) as Epoch,
      position: readLsn(row[3]),
      lastTransactionIds: indexes.slice(0, lastCount).map((index) => entryAt(tables.ids, index) as TransactionId),
      idsSuffice: (flags & flag.idsSuffice) !== 0,
      seenTimestamp: hasSeen ? readTimeBefore(row.at(-1), tables.timestamp) : undefined,
      pending: indexes.slice(lastCount).map((index) => ({
        transactionId: entryAt(tables.ids, index) as TransactionId,
        timestamp: entryAt(tables.branchTimestamps, index),
      })),
      pendingForgotten: (flags & flag.pendingForgotten) !== 0,
    },
  }
}

function readMap(bytes: Buffer): ReadonlyMap<number, CborValue> {
  let value: CborValue
  try {
    value = readCbor(bytes)
  } catch (error) {
    if (!(error instanceof CborMalformed)) throw error
    throw new PayloadMalformed(`not CBOR: ${error.message}`, { cause: error })
  }
  if (!(value instanceof Map)) throw new PayloadMalformed('not a map')
  return value
}

function entryAt<T>(table: readonly T[], index: number): T {
  const entry = table[index]
  if (entry === undefined) throw new PayloadMalformed(`no entry ${index} in the table`)
  return entry
}

function readArray(value: CborValue | undefined): readonly CborValue[] {
  if (!Array.isArray(value)) throw new PayloadMalformed('not a list')
  return value
}

function readCount(value: CborValue | undefined): number {
  if (typeof value !== 'number') throw new PayloadMalformed('not a count')
  return value
}

function readHlc(value: CborValue | undefined): Hlc {
  const hlc = typeof value === 'bigint' ? value : BigInt(readCount(value))
  if (hlc > 0x7fff_ffff_ffff_ffffn) throw new PayloadMalformed('not a timestamp')
  return toHlc(hlc)
}

function readTimeBefore(value: CborValue | undefined, timestamp: Hlc): Hlc {
  const before = readHlc(value)
  if (before > timestamp) throw new PayloadMalformed('a timestamp before all time')
  return toHlc(timestamp - before)
}

/** Big-endian without leading zeros: an LSN of the first terabyte takes six bytes, as a CBOR integer nine. */
function lsnToBytes(lsn: Lsn): Uint8Array {
  const bytes = Buffer.allocUnsafe(8)
  bytes.writeBigUInt64BE(lsn)
  let first = 0
  while (bytes[first] === 0) first += 1
  return bytes.subarray(first)
}

function readLsn(value: CborValue | undefined): Lsn {
  if (!(value instanceof Uint8Array) || value.length > 8 || value[0] === 0) throw new PayloadMalformed('not a position')
  const bytes = Buffer.alloc(8)
  bytes.set(value, 8 - value.length)
  return toLsn(bytes.readBigUInt64BE())
}

function readUuids(value: CborValue | undefined): string[] {
  if (!(value instanceof Uint8Array) || value.length % 16 !== 0) throw new PayloadMalformed('not a list of UUIDs')
  const uuids: string[] = []
  for (let at = 0; at < value.length; at += 16) uuids.push(readUuid(value, at))
  return uuids
}
