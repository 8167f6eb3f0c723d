import { assert } from '../base/assert.ts'
import type { TransactionId } from '../directory/topology.ts'
import type { Hlc } from '../hlc/hlc.ts'
import type { Lsn } from '../postgres/lsn.ts'
import type { CborWriter } from './cbor.ts'
import type { Frontier, HistoryFrontier, PendingBranch, ShardFrontier } from './frontier.ts'
import { refOfShard } from './shard-refs.ts'
import { writeUuid } from './uuid-bytes.ts'

/**
 * What a token says (`token-payload-reader.ts` reads it), in deterministic CBOR (RFC 8949, section 4.2).
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

export const key = { issuedAt: 1, lifetime: 2, timestamp: 3, uuids: 4, rows: 5, branchTimestamps: 6 } as const

/** Bits 0 to 2 of the flags count the last ids; the indexes behind them are branches. */
export const countMask = 0b111
export const flag = { idsSuffice: 0x08, seen: 0x10, pendingForgotten: 0x20, historiesForgotten: 0x40 } as const
export const rowHead = 5

/** One position at a time is taken apart here. */
const position = new DataView(new ArrayBuffer(8))

/** Writes the payload where the writer stands. */
export function writePayload(writer: CborWriter, { issuedAtSeconds, lifetimeSeconds, frontier }: TokenBody): void {
  const entries = entriesOf(frontier)
  const table = tableOfIds(entries)
  const { ids, branches } = table
  writer.map(branches.length === 0 ? 5 : 6)
  writer.count(key.issuedAt)
  writer.count(issuedAtSeconds)
  writer.count(key.lifetime)
  writer.count(lifetimeSeconds)
  writer.count(key.timestamp)
  writer.bigCount(frontier.timestamp)
  writer.count(key.uuids)
  writeUuids(writer, entries, ids)
  writer.count(key.rows)
  writer.list(entries.length)
  for (const entry of entries) writeRow(writer, entry, frontier.timestamp, table)
  if (branches.length > 0) {
    writer.count(key.branchTimestamps)
    writer.list(branches.length)
    for (const branch of branches) writer.bigCount(timeBefore(frontier.timestamp, branch.timestamp))
  }
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

function writeUuids(writer: CborWriter, entries: readonly Entry[], ids: readonly TransactionId[]): void {
  const length = 16 * (entries.length + ids.length)
  writer.byteString(length)
  let at = writer.reserve(length)
  for (const { history } of entries) at = writeUuid(writer.bytes, at, history.historyId)
  for (const id of ids) at = writeUuid(writer.bytes, at, id)
}

function writeRow(writer: CborWriter, entry: Entry, timestamp: Hlc, table: IdTable): void {
  const { ref, of, history } = entry
  const { lastTransactionIds, pending, seenTimestamp } = history
  writer.list(rowHead + lastTransactionIds.length + pending.length + (seenTimestamp === undefined ? 0 : 1))
  writer.count(ref)
  writer.count(of.placementVersion)
  writer.count(history.epoch)
  writeLsn(writer, history.position)
  writer.count(
    lastTransactionIds.length |
      (history.idsSuffice ? flag.idsSuffice : 0) |
      (seenTimestamp === undefined ? 0 : flag.seen) |
      (history.pendingForgotten ? flag.pendingForgotten : 0) |
      (of.historiesForgotten ? flag.historiesForgotten : 0),
  )
  for (const id of lastTransactionIds) writer.count(indexOf(table, id))
  for (const { transactionId } of pending) writer.count(indexOf(table, transactionId))
  if (seenTimestamp !== undefined) writer.bigCount(timeBefore(timestamp, seenTimestamp))
}

/** Of so few names one is found sooner by a look at each than by its hash; of a session over hundreds of shards it is not. */
const lookedAtMax = 32

interface IdTable {
  readonly ids: readonly TransactionId[]
  readonly branches: readonly PendingBranch[]
  /** Of many. */
  readonly indexes: ReadonlyMap<TransactionId, number> | undefined
}

function indexOf({ ids, indexes }: IdTable, id: TransactionId): number {
  const index = indexes === undefined ? ids.indexOf(id) : (indexes.get(id) ?? -1)
  assert(index >= 0, 'every id of a row is in the table')
  return index
}

/** Branches first, since they have timestamps; within each part in order, so that equal frontiers make equal bytes. */
function tableOfIds(entries: readonly Entry[]): IdTable {
  const named = namesOf(entries)
  const branches: PendingBranch[] = []
  const ids: TransactionId[] = []
  const seen = named > lookedAtMax ? new Set<TransactionId>() : undefined
  const isNew = (id: TransactionId) => (seen === undefined ? !ids.includes(id) : seen.size < seen.add(id).size)
  for (const { history } of entries) {
    for (const branch of history.pending) {
      if (!isNew(branch.transactionId)) continue
      branches.push(branch)
      ids.push(branch.transactionId)
    }
  }
  if (branches.length > 1) branches.sort((a, b) => (a.transactionId < b.transactionId ? -1 : 1))
  for (const { history } of entries) for (const id of history.lastTransactionIds) if (isNew(id)) ids.push(id)
  const others = ids.splice(branches.length)
  const all = [...branches.map(({ transactionId }) => transactionId), ...others.sort()]
  return { ids: all, branches, indexes: seen && new Map(all.map((id, index) => [id, index])) }
}

/** How many there are at most. */
function namesOf(entries: readonly Entry[]): number {
  let names = 0
  for (const { history } of entries) names += history.pending.length + history.lastTransactionIds.length
  return names
}

function timeBefore(timestamp: Hlc, earlier: Hlc): bigint {
  assert(earlier <= timestamp, 'the timestamp of a frontier is the greatest in it')
  return timestamp - earlier
}

/** Big-endian without leading zeros: an LSN of the first terabyte takes six bytes, as a CBOR integer nine. */
function writeLsn(writer: CborWriter, lsn: Lsn): void {
  position.setBigUint64(0, lsn)
  let first = 0
  while (first < 8 && position.getUint8(first) === 0) first += 1
  writer.byteString(8 - first)
  for (let at = first; at < 8; at += 1) writer.byte(position.getUint8(at))
}
