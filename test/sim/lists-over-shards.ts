import type { Operation, Violation } from './history.ts'
import { appendsOf, isSeen, placeOf, readsOf } from './history.ts'
import { checkListAppend, forbiddenUnder } from './list-append.ts'
import { checkTimestamps } from './timestamps.ts'

/** The home of who transacts: what was acknowledged is there for every transaction that begins later. */
const home = 'left'

/**
 * Lists on several shards, by keys of the form `shard/list`, in transactions whose clients carry tokens, at repeatable read
 * where they read, and in snapshots of several shards. The last operation of the history is a snapshot of every list.
 *
 * On each shard PostgreSQL's repeatable read must hold, in the order of the sessions too, and at home in real time: a branch that
 * is decided may be settled later (HZ-X3), and a snapshot of who knows nothing may come from a primary of the past. Over all of them nothing
 * is dirty, and there is no cycle of writes and reads of writes. Snapshots are not fractured; timestamps follow what was
 * seen; nothing that was acknowledged is missing at the end.
 */
export function checkListsOverShards(history: readonly Operation[]): Violation[] {
  const shards = new Set(history.flatMap(({ micro }) => micro.map(({ key }) => shardOf(key))))
  const isForbidden = forbiddenUnder('repeatable read')
  const perShard = [...shards].flatMap((shard) =>
    checkListAppend(history.map((operation) => onlyOn(operation, shard))).filter(
      ({ kind }) => isForbidden(kind) && !kind.endsWith('-realtime'),
    ),
  )
  const last = history.at(-1)
  const mayBeOfThePast = (operation: Operation) => operation.level === 'snapshot' && operation !== last
  const inRealTime = checkListAppend(
    history.map((operation) => onlyOn(operation, mayBeOfThePast(operation) ? undefined : home)),
  ).filter(({ kind }) => isForbidden(kind) && kind.endsWith('-realtime'))
  const overAll = checkListAppend(history).filter(
    ({ kind }) => forbiddenUnder('read committed')(kind) && !/-(session|realtime)$/.test(kind),
  )
  return [...perShard, ...inRealTime, ...overAll, ...fractured(history), ...checkTimestamps(history), ...lost(history)]
}

const shardOf = (key: string) => key.split('/')[0] ?? key

function onlyOn(operation: Operation, shard: string | undefined): Operation {
  return { ...operation, micro: operation.micro.filter(({ key }) => shardOf(key) === shard) }
}

/** A snapshot has all of a transaction's appends to the lists that it reads, or none of them. */
function fractured(history: readonly Operation[]): Violation[] {
  return history.flatMap((reader) => {
    if (reader.level !== 'snapshot' || !isSeen(reader)) return []
    const read = new Map(readsOf(reader.micro).map(({ key, values }) => [key, new Set(values)]))
    return history.flatMap((writer) => {
      const shown = appendsOf(writer.micro).flatMap(({ key, value }) => {
        const values = read.get(key)
        return values === undefined ? [] : [values.has(value)]
      })
      if (!shown.includes(true) || !shown.includes(false)) return []
      const explanation = `${reader.index} shows a part of ${writer.index}`
      return [{ kind: 'fractured read', explanation, operations: [writer.index, reader.index] }]
    })
  })
}

/** Nothing acknowledged is missing from the last read. */
function lost(history: readonly Operation[]): Violation[] {
  const last = new Set(
    readsOf(history.at(-1)?.micro ?? []).flatMap(({ key, values }) => values.map((value) => placeOf(key, value))),
  )
  return history
    .filter(isSeen)
    .flatMap(({ micro, index }) =>
      appendsOf(micro).flatMap(({ key, value }) =>
        last.has(placeOf(key, value))
          ? []
          : [{ kind: 'lost write', explanation: `${value} is not in ${key} any more`, operations: [index] }],
      ),
    )
}
