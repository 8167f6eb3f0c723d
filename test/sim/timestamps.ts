import type { Operation, Violation } from './history.ts'
import { appendsOf, isSeen, placeOf, readsOf } from './history.ts'

/**
 * Commit timestamps against what was observed. Who saw an effect and then wrote is later than it; of two appends to one
 * list the later one is later; a client's next commit is later than its last. Nothing is said of whom nobody saw: commit
 * timestamps do not follow anti-dependencies.
 */
export function checkTimestamps(history: readonly Operation[]): Violation[] {
  const stamped = history.filter((one) => isSeen(one) && one.timestamp !== undefined)
  const writers = new Map(
    stamped.flatMap((one) => appendsOf(one.micro).map(({ key, value }) => [placeOf(key, value), one] as const)),
  )
  return [
    ...stamped.flatMap((reader) => notLaterThanSeen(reader, writers)),
    ...outOfListOrder(history, writers),
    ...outOfSession(stamped),
  ]
}

function notLater(earlier: Operation, later: Operation, why: string): Violation[] {
  if (earlier === later || (earlier.timestamp ?? '') < (later.timestamp ?? '')) return []
  const explanation = `${later.index} at ${later.timestamp} is not above ${earlier.index} at ${earlier.timestamp}: ${why}`
  return [{ kind: 'timestamp order', explanation, operations: [earlier.index, later.index] }]
}

/** Only who wrote has a timestamp that others see. */
function notLaterThanSeen(reader: Operation, writers: ReadonlyMap<string, Operation>): Violation[] {
  if (appendsOf(reader.micro).length === 0) return []
  const seen = new Set(
    readsOf(reader.micro).flatMap(({ key, values }) =>
      values.flatMap((value) => writers.get(placeOf(key, value)) ?? []),
    ),
  )
  return [...seen].flatMap((writer) => notLater(writer, reader, 'it saw what that one wrote'))
}

function outOfListOrder(history: readonly Operation[], writers: ReadonlyMap<string, Operation>): Violation[] {
  const longest = new Map<string, readonly number[]>()
  for (const { key, values } of history.filter(isSeen).flatMap(({ micro }) => readsOf(micro))) {
    if (values.length > (longest.get(key)?.length ?? -1)) longest.set(key, values)
  }
  return [...longest].flatMap(([key, values]) => {
    const order = values.flatMap((value) => writers.get(placeOf(key, value)) ?? [])
    return order.slice(1).flatMap((later, at) => {
      const earlier = order[at]
      return earlier === undefined ? [] : notLater(earlier, later, `it comes behind it in ${key}`)
    })
  })
}

function outOfSession(stamped: readonly Operation[]): Violation[] {
  const last = new Map<number, Operation>()
  return stamped.flatMap((operation) => {
    const before = last.get(operation.client)
    last.set(operation.client, operation)
    return before === undefined ? [] : notLater(before, operation, 'it is of the same session')
  })
}
