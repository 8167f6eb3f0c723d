import type { Operation, Violation } from './history.ts'
import { appendsOf, isSeen, placeOf, readsOf } from './history.ts'
import { checkListAppend, forbiddenUnder } from './list-append.ts'
import { checkTimestamps } from './timestamps.ts'

/**
 * Lists on several shards, by keys of the form `shard/list`, in transactions whose clients carry tokens, at repeatable read
 * where they read, and in snapshots of several shards. The last operation of the history reads every list.
 *
 * On each shard PostgreSQL's repeatable read must hold, in the order of the sessions too. Over all of them nothing is
 * dirty, and there is no cycle of writes and reads of writes. Snapshots are not fractured; timestamps follow what was
 * seen; nothing that was acknowledged is missing at the end.
 */
export function checkListsOverShards(history: readonly Operation[]): Violation[] {
  const shards = new Set(history.flatMap(({ micro }) => micro.map(({ key }) => shardOf(key))))
  // Snapshots may be of the past; they have a rule of their own.
  const transactions = reindexed(history.filter(({ level }) => level !== 'snapshot'))
  const perShard = [...shards].flatMap((shard) =>
    checkListAppend(transactions.map((operation) => onlyOn(operation, shard))).filter(
      ({ kind }) => forbiddenUnder('repeatable read')(kind) && !kind.endsWith('-realtime'),
    ),
  )
  const overAll = checkListAppend(transactions).filter(
    ({ kind }) => forbiddenUnder('read committed')(kind) && !/-(session|realtime)$/.test(kind),
  )
  return [...perShard, ...overAll, ...fractured(history), ...checkTimestamps(history), ...lost(history)]
}

const shardOf = (key: string) => key.split('/')[0] ?? key

const reindexed = (history: readonly Operation[]) => history.map((operation, index) => ({ ...operation, index }))

function onlyOn(operation: Operation, shard: string): Operation {
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
