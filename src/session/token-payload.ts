import { decode, encode, rfc8949EncodeOptions } from 'cborg'
import { assert, present } from '../base/assert.ts'
import type { Epoch, HistoryId, ShardName, TransactionId } from '../directory/topology.ts'
import type { Hlc } from '../hlc/hlc.ts'
import { toHlc } from '../hlc/hlc.ts'
import type { Lsn } from '../postgres/lsn.ts'
import { toLsn } from '../postgres/lsn.ts'
import type { Frontier, HistoryFrontier, PendingBranch, ShardFrontier } from './frontier.ts'
import { historiesMax, lastIdsMax, pendingMax, transactionIdsOf } from './frontier.ts'
import { refOfShard } from './shard-refs.ts'

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

export function encodePayload({ issuedAtSeconds, lifetimeSeconds, frontier }: TokenBody): Uint8Array {
  const entries = entriesOf(frontier)
  const ids = tableOfIds(entries.map((entry) => entry.history))
  const indexOf = new Map(ids.all.map((id, index) => [id, index]))
  const rows = entries.map((entry) => encodeRow(entry, frontier.timestamp, indexOf))
  const uuids = [...entries.map((entry) => entry.history.historyId), ...ids.all].map(uuidToBytes)
  const payload = new Map<number, unknown>([
    [key.issuedAt, issuedAtSeconds],
    [key.lifetime, lifetimeSeconds],
    [key.timestamp, frontier.timestamp],
    [key.uuids, Buffer.concat(uuids)],
    [key.rows, rows],
  ])
  const before = ids.branches.map((branch) => timeBefore(frontier.timestamp, branch.timestamp))
  if (before.length > 0) payload.set(key.branchTimestamps, before)
  return encode(payload, rfc8949EncodeOptions)
}

interface Entry {
  readonly shard: ShardName
  readonly ref: number
  readonly of: ShardFrontier
  readonly history: HistoryFrontier
}

function entriesOf(frontier: Frontier): Entry[] {
  const shards = [...frontier.shards].map(([shard, of]) => ({ shard, ref: refOfShard(shard), of }))
  return shards
    .toSorted((a, b) => a.ref - b.ref)
    .flatMap((entry) => entry.of.histories.map((history) => ({ ...entry, history })))
}

function encodeRow(entry: Entry, timestamp: Hlc, indexOf: ReadonlyMap<TransactionId, number>): unknown[] {
  const { ref, of, history } = entry
  const flags =
    history.lastTransactionIds.length |
    (history.idsSuffice ? flag.idsSuffice : 0) |
    (history.seenTimestamp === undefined ? 0 : flag.seen) |
    (history.pendingForgotten ? flag.pendingForgotten : 0) |
    (of.historiesForgotten ? flag.historiesForgotten : 0)
  const ids = [...history.lastTransactionIds, ...history.pending.map((branch) => branch.transactionId)]
  const indexes = ids.map((id) => present(indexOf.get(id), 'every id of a row is in the table'))
  const seen = history.seenTimestamp === undefined ? [] : [timeBefore(timestamp, history.seenTimestamp)]
  return [ref, of.placementVersion, history.epoch, lsnToBytes(history.position), flags, ...indexes, ...seen]
}

/** Branches first, since they have timestamps; within each part in order, so that equal frontiers make equal bytes. */
function tableOfIds(histories: readonly HistoryFrontier[]): { all: TransactionId[]; branches: PendingBranch[] } {
  const pending = histories.flatMap((history) => history.pending)
  const branches = [...new Map(pending.map((branch) => [branch.transactionId, branch])).values()].toSorted((a, b) =>
    a.transactionId < b.transactionId ? -1 : 1,
  )
  const first = branches.map((branch) => branch.transactionId)
  const others = new Set(histories.flatMap((history) => transactionIdsOf(history)))
  for (const id of first) others.delete(id)
  return { all: [...first, ...[...others].toSorted()], branches }
}

function timeBefore(timestamp: Hlc, earlier: Hlc): bigint {
  assert(earlier <= timestamp, 'the timestamp of a frontier is the greatest in it')
  return timestamp - earlier
}

/** Why a payload that carries a valid signature is none; the caller makes it `token_malformed`. */
export class PayloadMalformed extends Error {}

/** A payload names a shard that is not in the map. */
export class ShardUnknown extends Error {}

export function decodePayload(bytes: Uint8Array, shards: ReadonlyMap<number, ShardName>): TokenBody {
  const payload = decodeStrictly(bytes)
  const timestamp = readHlc(payload.get(key.timestamp))
  const rows = readArray(payload.get(key.rows)).map(readArray)
  const uuids = readUuids(payload.get(key.uuids))
  if (uuids.length < rows.length) throw new PayloadMalformed('a row has no history')
  const before = payload.has(key.branchTimestamps) ? readArray(payload.get(key.branchTimestamps)) : []
  const tables = {
    timestamp,
    ids: uuids.slice(rows.length),
    branchTimestamps: before.map((value) => readTimeBefore(value, timestamp)),
  }
  const byShard = new Map<ShardName, ShardFrontier>()
  for (const [index, row] of rows.entries()) {
    const shard = shards.get(readCount(row[0]))
    if (shard === undefined) throw new ShardUnknown(`no shard has the short form ${String(row[0])}`)
    const { of, history } = decodeRow(row, present(uuids[index], 'one history a row'), tables)
    const histories = [...(byShard.get(shard)?.histories ?? []), history]
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
  row: readonly unknown[],
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

function decodeStrictly(bytes: Uint8Array): ReadonlyMap<unknown, unknown> {
  let value: unknown
  try {
    value = decode(bytes, {
      strict: true,
      useMaps: true,
      rejectDuplicateMapKeys: true,
      allowIndefinite: false,
      allowUndefined: false,
    })
  } catch (error) {
    throw new PayloadMalformed('not CBOR', { cause: error })
  }
  if (!(value instanceof Map)) throw new PayloadMalformed('not a map')
  return value
}

function entryAt<T>(table: readonly T[], index: number): T {
  const entry = table[index]
  if (entry === undefined) throw new PayloadMalformed(`no entry ${index} in the table`)
  return entry
}

function readArray(value: unknown): unknown[] {
  if (!Array.isArray(value)) throw new PayloadMalformed('not a list')
  return value
}

function readCount(value: unknown): number {
  if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < 0) throw new PayloadMalformed('not a count')
  return value
}

function readHlc(value: unknown): Hlc {
  const hlc = typeof value === 'bigint' ? value : BigInt(readCount(value))
  if (hlc > 0x7fff_ffff_ffff_ffffn || hlc < 0n) throw new PayloadMalformed('not a timestamp')
  return toHlc(hlc)
}

function readTimeBefore(value: unknown, timestamp: Hlc): Hlc {
  const before = readHlc(value)
  if (before > timestamp) throw new PayloadMalformed('a timestamp before all time')
  return toHlc(timestamp - before)
}

/** Big-endian without leading zeros: an LSN of the first terabyte takes six bytes, as a CBOR integer nine. */
function lsnToBytes(lsn: Lsn): Uint8Array {
  const hex = lsn.toString(16)
  return lsn === 0n ? new Uint8Array() : Buffer.from(hex.padStart(hex.length + (hex.length % 2), '0'), 'hex')
}

function readLsn(value: unknown): Lsn {
  if (!(value instanceof Uint8Array) || value.length > 8 || value[0] === 0) throw new PayloadMalformed('not a position')
  return toLsn(value.length === 0 ? 0n : BigInt(`0x${Buffer.from(value).toString('hex')}`))
}

function uuidToBytes(uuid: string): Uint8Array {
  assert(/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/.test(uuid), `not a UUID in lower case: ${uuid}`)
  return Buffer.from(uuid.replaceAll('-', ''), 'hex')
}

function readUuids(value: unknown): string[] {
  if (!(value instanceof Uint8Array) || value.length % 16 !== 0) throw new PayloadMalformed('not a list of UUIDs')
  const hex = Buffer.from(value).toString('hex')
  return Array.from({ length: value.length / 16 }, (_, index) =>
    hex.slice(index * 32, index * 32 + 32).replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5'),
  )
}
