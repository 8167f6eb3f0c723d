import { assert } from '../../src/base/assert.ts'
import { components, shortestPath } from './cycles.ts'
import type { MicroOperation, Operation, Violation } from './history.ts'

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
 */
export type Dependency = 'ww' | 'wr' | 'rw' | 'session' | 'realtime'

interface Edge {
  readonly from: number
  readonly to: number
  readonly kind: Dependency
}

/** An operation's index is its place in the history. */
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
  const edges = [...dependencies(history, writers, versions.order), ...sessionEdges(history), ...realTimeEdges(history)]
  return [...direct, ...cycles(history, edges)]
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

const isSeen = ({ outcome }: Operation) => outcome === 'committed'
const placeOf = (key: string, value: number) => `${key} ${value}`

function appendsOf(micro: readonly MicroOperation[]) {
  return micro.flatMap((one) => (one.kind === 'append' ? [one] : []))
}

function readsOf(micro: readonly MicroOperation[]) {
  return micro.flatMap((one) => (one.kind === 'read' ? [one] : []))
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

/** ww from one version to the next, wr from a version to its readers, rw from the readers of a version to the next. */
function dependencies(
  history: readonly Operation[],
  writers: ReadonlyMap<string, Operation>,
  order: ReadonlyMap<string, readonly number[]>,
): Edge[] {
  const edges: Edge[] = []
  const link = (from: Operation | undefined, to: Operation | undefined, kind: Dependency) => {
    if (from === undefined || to === undefined || from === to) return
    if (from.outcome !== 'aborted' && to.outcome !== 'aborted') edges.push({ from: from.index, to: to.index, kind })
  }
  const writerAt = (key: string, at: number) => {
    const value = order.get(key)?.[at]
    return value === undefined ? undefined : writers.get(placeOf(key, value))
  }
  for (const [key, values] of order) {
    for (const at of values.keys()) link(writerAt(key, at - 1), writerAt(key, at), 'ww')
  }
  for (const reader of history.filter(isSeen)) {
    for (const { key, values } of readsOf(reader.micro)) {
      link(writerAt(key, values.length - 1), reader, 'wr')
      // A transaction's own appends overwrite nothing of what it read.
      let next = values.length
      while (writerAt(key, next) === reader) next += 1
      link(reader, writerAt(key, next), 'rw')
    }
  }
  return edges
}

function sessionEdges(history: readonly Operation[]): Edge[] {
  const last = new Map<number, Operation>()
  const edges: Edge[] = []
  for (const operation of history.filter(isSeen).toSorted((a, b) => a.invokedAt - b.invokedAt)) {
    const before = last.get(operation.client)
    if (before !== undefined) edges.push({ from: before.index, to: operation.index, kind: 'session' })
    last.set(operation.client, operation)
  }
  return edges
}

/** Who completed before another was invoked; only the edges that the others do not imply. */
function realTimeEdges(history: readonly Operation[]): Edge[] {
  const committed = history.filter(isSeen)
  const invocations = committed.toSorted((a, b) => a.invokedAt - b.invokedAt)
  const completions = committed.toSorted((a, b) => a.completedAt - b.completedAt)
  const edges: Edge[] = []
  let frontier: Operation[] = []
  let next = 0
  for (const operation of invocations) {
    for (
      let done = completions[next];
      done !== undefined && done.completedAt < operation.invokedAt;
      done = completions[next]
    ) {
      const completed = done
      // What ended before this one began is implied by it.
      frontier = [...frontier.filter(({ completedAt }) => completedAt >= completed.invokedAt), completed]
      next += 1
    }
    for (const before of frontier) edges.push({ from: before.index, to: operation.index, kind: 'realtime' })
  }
  return edges
}

/** Levels of what a cycle may use, the strongest anomaly first: a cycle is named by the first that holds it. */
const levels: readonly { readonly kind: string; readonly uses: readonly Dependency[]; readonly overwrites: boolean }[] =
  [
    { kind: 'G0', uses: ['ww'], overwrites: false },
    { kind: 'G1c', uses: ['ww', 'wr'], overwrites: false },
    { kind: '', uses: ['ww', 'wr'], overwrites: true },
  ]
const orders: readonly { readonly suffix: string; readonly uses: readonly Dependency[] }[] = [
  { suffix: '', uses: [] },
  { suffix: '-session', uses: ['session'] },
  { suffix: '-realtime', uses: ['session', 'realtime'] },
]

/** The worst first. */
const strengths = ['G0', 'G1c', 'G-single', 'G-nonadjacent', 'G2-item']

function cycles(history: readonly Operation[], edges: readonly Edge[]): Violation[] {
  const explained = new Map<string, number>()
  const violations: Violation[] = []
  for (const { suffix, uses: also } of orders) {
    for (const { kind, uses, overwrites } of levels) {
      const plain = graphOf(edges.filter((edge) => uses.includes(edge.kind) || also.includes(edge.kind)))
      const found = overwrites ? overwritingCycles(history, edges, plain, also) : plainCycles(history, plain, kind)
      for (const violation of found) {
        const members = violation.operations.toSorted((a, b) => a - b).join(' ')
        const strength = strengths.indexOf(violation.kind)
        // Named before as the same or worse. A worse name that needs the order of a session is news.
        if ((explained.get(members) ?? strengths.length) <= strength) continue
        explained.set(members, strength)
        violations.push({ ...violation, kind: `${violation.kind}${suffix}` })
      }
    }
  }
  return violations
}

function plainCycles(history: readonly Operation[], graph: Map<number, Set<number>>, kind: string): Violation[] {
  return components(history.keys(), graph).flatMap((component) => {
    const [first] = component
    if (first === undefined) return []
    const inside = within(graph, component)
    const next = [...(inside.get(first) ?? [])][0]
    const path = next === undefined ? undefined : shortestPath(next, first, inside)
    if (path === undefined) return []
    return [{ kind, explanation: `cycle ${[first, ...path].join(' -> ')}`, operations: path }]
  })
}

/** Cycles with rw edges: one of them is G-single; several that never touch, G-nonadjacent; else G2-item. */
function overwritingCycles(
  history: readonly Operation[],
  edges: readonly Edge[],
  plain: Map<number, Set<number>>,
  also: readonly Dependency[],
): Violation[] {
  const overwrites = edges.filter(({ kind }) => kind === 'rw')
  const all = graphOf(
    edges.filter(({ kind }) => (kind !== 'session' && kind !== 'realtime' ? true : also.includes(kind))),
  )
  const componentOf = new Map<number, number>()
  for (const [number, component] of components(history.keys(), all).entries()) {
    for (const member of component) componentOf.set(member, number)
  }
  const isRw = new Set(overwrites.map(({ from, to }) => `${from} ${to}`))
  return overwrites.flatMap(({ from, to }) => {
    if (componentOf.get(from) === undefined || componentOf.get(from) !== componentOf.get(to)) return []
    const single = shortestPath(to, from, plain)
    if (single !== undefined) {
      return [
        {
          kind: 'G-single',
          explanation: `cycle ${[from, ...single].join(' -> ')}, ${from} read what ${to} overwrote`,
          operations: single,
        },
      ]
    }
    const path = shortestPath(to, from, all)
    if (path === undefined) return []
    const steps = [from, ...path].slice(1).map((node, at) => isOnlyRw([from, ...path][at] ?? from, node))
    const touch = steps.some((step, at) => step && steps[(at + 1) % steps.length] === true)
    return [
      {
        kind: touch ? 'G2-item' : 'G-nonadjacent',
        explanation: `cycle ${[from, ...path].join(' -> ')}`,
        operations: path,
      },
    ]
  })

  function isOnlyRw(from: number, to: number): boolean {
    return isRw.has(`${from} ${to}`) && plain.get(from)?.has(to) !== true
  }
}

function graphOf(edges: readonly Edge[]): Map<number, Set<number>> {
  const graph = new Map<number, Set<number>>()
  for (const { from, to } of edges) {
    const known = graph.get(from)
    if (known === undefined) graph.set(from, new Set([to]))
    else known.add(to)
  }
  return graph
}

function within(graph: ReadonlyMap<number, Set<number>>, component: readonly number[]): Map<number, Set<number>> {
  const members = new Set(component)
  return new Map(component.map((node) => [node, new Set([...(graph.get(node) ?? [])].filter((to) => members.has(to)))]))
}
