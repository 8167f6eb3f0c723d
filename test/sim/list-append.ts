import { assert } from '../../src/base/assert.ts'
import { cyclesOf, dependenciesOf } from './dependencies.ts'
import type { Operation, Violation } from './history.ts'
import { appendsOf, isSeen, placeOf, readsOf } from './history.ts'

/**
 * Isolation anomalies in a history of appends to lists and reads of whole lists, by Adya's names: the longest read of a
 * key gives the order of its versions, versions give who depended on whom, and a cycle of dependencies is an anomaly. The
 * idea is that of Kingsbury and Alvaro, *Elle: Inferring Isolation Anomalies from Experimental Observations* (2020).
 *
 *   direct   G1a aborted read · G1b intermediate read · internal · duplicate append · incompatible order · unwritten value
 *   cycles   G0 of writes alone · G1c with reads of writes · G-single with one overwrite of what was read ·
 *            G-nonadjacent with several, none beside another · G2-item otherwise
 *
 * A cycle that needs the order of a session, or of real time, is named so: `G1c-session`, `G-single-realtime`. What a
 * surface promises decides which of them are violations; `forbiddenUnder` says so.
 *
 * An operation's index is its place in the history.
 */
export function checkListAppend(history: readonly Operation[]): Violation[] {
  assert(
    history.every(({ index }, at) => index === at),
    'an index is a place in the history',
  )
  const writers = writersOf(history)
  const versions = versionsOf(history)
  const direct = [
    ...duplicateAppends(history),
    ...versions.violations,
    ...history.flatMap((operation) => swapped(operation, versions.order)),
    ...history.filter(isSeen).flatMap((operation) => badReads(operation, writers, history)),
    ...history.filter(isSeen).flatMap(internal),
  ]
  return [...direct, ...cyclesOf(history, dependenciesOf(history, writers, versions.order))]
}

/** The kinds that PostgreSQL's isolation level forbids on one primary; with sessions, where all clients carry tokens. */
export function forbiddenUnder(
  level: 'read committed' | 'repeatable read' | 'serializable',
): (kind: string) => boolean {
  const always = ['G0', 'G1a', 'G1b', 'G1c', 'duplicate append', 'incompatible order', 'unwritten value', 'internal']
  const forbidden = {
    'read committed': always,
    // PostgreSQL's is snapshot isolation: of overwritten reads only those beside another are left, as in write skew.
    'repeatable read': [...always, 'G-single', 'G-nonadjacent'],
    serializable: [...always, 'G-single', 'G-nonadjacent', 'G2-item'],
  }[level]
  return (kind) => forbidden.includes(kind.replace(/-(session|realtime)$/, ''))
}

function writersOf(history: readonly Operation[]): ReadonlyMap<string, Operation> {
  return new Map(
    history.flatMap((operation) =>
      appendsOf(operation.micro).map(({ key, value }) => [placeOf(key, value), operation] as const),
    ),
  )
}

function duplicateAppends(history: readonly Operation[]): Violation[] {
  const violations: Violation[] = []
  for (const operation of history.filter(isSeen)) {
    for (const { key, values } of readsOf(operation.micro)) {
      const twice = values.find((value, index) => values.indexOf(value) !== index)
      if (twice === undefined) continue
      const explanation = `${twice} stands twice in ${key}`
      violations.push({ kind: 'duplicate append', explanation, operations: [operation.index] })
    }
  }
  return violations
}

interface Versions {
  /** Per key, the values in the order in which they came. */
  readonly order: ReadonlyMap<string, readonly number[]>
  readonly violations: readonly Violation[]
}

/** Every read of a list must be a prefix of the longest one. */
function versionsOf(history: readonly Operation[]): Versions {
  const longest = new Map<string, { readonly values: readonly number[]; readonly index: number }>()
  for (const { outcome, micro, index } of history) {
    if (outcome !== 'committed') continue
    for (const { key, values } of readsOf(micro)) {
      if (values.length > (longest.get(key)?.values.length ?? -1)) longest.set(key, { values, index })
    }
  }
  const violations: Violation[] = []
  for (const { outcome, micro, index } of history) {
    if (outcome !== 'committed') continue
    for (const { key, values } of readsOf(micro)) {
      const whole = longest.get(key)
      if (whole === undefined || values.every((value, at) => whole.values[at] === value)) continue
      const explanation = `${key} was read as [${values.join(' ')}] and as [${whole.values.join(' ')}]`
      violations.push({ kind: 'incompatible order', explanation, operations: [whole.index, index] })
    }
  }
  return { order: new Map([...longest].map(([key, { values }]) => [key, values])), violations }
}

function badReads(
  reader: Operation,
  writers: ReadonlyMap<string, Operation>,
  history: readonly Operation[],
): Violation[] {
  const violations: Violation[] = []
  const found = (kind: string, explanation: string, writer?: Operation) =>
    violations.push({
      kind,
      explanation,
      operations: writer === undefined ? [reader.index] : [writer.index, reader.index],
    })
  for (const { key, values } of readsOf(reader.micro)) {
    for (const [at, value] of values.entries()) {
      const writer = writers.get(placeOf(key, value))
      if (writer === undefined) {
        found('unwritten value', `${value} in ${key} was appended by nobody`)
      } else if (writer.outcome === 'aborted') {
        found('G1a', `${value} in ${key} was appended by an aborted transaction`, writer)
      } else if (writer !== reader && at === values.length - 1) {
        const last = appendsOf(history[writer.index]?.micro ?? []).findLast((one) => one.key === key)
        if (last !== undefined && last.value !== value) {
          found('G1b', `${key} was read up to ${value}, in the middle of its transaction`, writer)
        }
      }
    }
  }
  return violations
}

/** What one transaction appended stands in the order in which it did. */
function swapped({ micro, index }: Operation, order: ReadonlyMap<string, readonly number[]>): Violation[] {
  const last = new Map<string, number>()
  return appendsOf(micro).flatMap(({ key, value }) => {
    const place = order.get(key)?.indexOf(value) ?? -1
    if (place < 0) return []
    const isBehind = place < (last.get(key) ?? -1)
    last.set(key, place)
    if (!isBehind) return []
    return [
      {
        kind: 'incompatible order',
        explanation: `${value} stands in ${key} before what it came after`,
        operations: [index],
      },
    ]
  })
}

/** What a transaction reads must agree with what it did before. */
function internal(operation: Operation): Violation[] {
  const expected = new Map<string, { base: readonly number[] | undefined; own: number[] }>()
  const violations: Violation[] = []
  for (const one of operation.micro) {
    const state = expected.get(one.key) ?? { base: undefined, own: [] }
    expected.set(one.key, state)
    if (one.kind === 'append') {
      state.own.push(one.value)
      continue
    }
    const end = state.own.length === 0 ? [] : one.values.slice(-state.own.length)
    if (end.length !== state.own.length || end.some((value, at) => value !== state.own[at])) {
      const explanation = `${one.key} was read as [${one.values.join(' ')}] after its own appends of ${state.own.join(' ')}`
      violations.push({ kind: 'internal', explanation, operations: [operation.index] })
    }
  }
  return violations
}
