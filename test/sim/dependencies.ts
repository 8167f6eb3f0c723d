import { components, shortestPath } from './cycles.ts'
import type { Operation, Violation } from './history.ts'
import { isSeen, placeOf, readsOf } from './history.ts'

/** Who depended on whom in a history of lists, and what the cycles of that are called. */
type Dependency = 'ww' | 'wr' | 'rw' | 'session' | 'realtime'

export interface Edge {
  readonly from: number
  readonly to: number
  readonly kind: Dependency
}

/** `order`: per key, its values in the order in which they came. */
export function dependenciesOf(
  history: readonly Operation[],
  writers: ReadonlyMap<string, Operation>,
  order: ReadonlyMap<string, readonly number[]>,
): Edge[] {
  return [...versionEdges(history, writers, order), ...sessionEdges(history), ...realTimeEdges(history)]
}

/** ww from one version to the next, wr from a version to its readers, rw from the readers of a version to the next. */
function versionEdges(
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

/** Every cycle that one kind of dependency, and one kind of order, makes; named by the worst that it is. */
export function cyclesOf(history: readonly Operation[], edges: readonly Edge[]): Violation[] {
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
  const apart = apartGraph(plain, overwrites)
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
    const path = shortestPath(apartOf(to, true), apartOf(from, false), apart)?.map(nodeOf)
    if (path !== undefined) {
      return [{ kind: 'G-nonadjacent', explanation: `cycle ${[from, ...path].join(' -> ')}`, operations: path }]
    }
    const skew = shortestPath(to, from, all)
    if (skew === undefined) return []
    return [{ kind: 'G2-item', explanation: `cycle ${[from, ...skew].join(' -> ')}`, operations: skew }]
  })
}

/** A node as it is reached: over an overwritten read, or otherwise. */
const apartOf = (node: number, byOverwrite: boolean) => node * 2 + (byOverwrite ? 1 : 0)
const nodeOf = (reached: number) => Math.floor(reached / 2)

/**
 * The graph in which no overwritten read follows another: its cycles are those that snapshot isolation forbids. A shorter
 * cycle through the same edge, as a write skew, does not hide them.
 */
function apartGraph(plain: ReadonlyMap<number, Set<number>>, overwrites: readonly Edge[]): Map<number, Set<number>> {
  const apart = new Map<number, Set<number>>()
  const link = (from: number, to: number) => apart.set(from, (apart.get(from) ?? new Set()).add(to))
  for (const [from, targets] of plain) {
    for (const to of targets) for (const by of [true, false]) link(apartOf(from, by), apartOf(to, false))
  }
  for (const { from, to } of overwrites) link(apartOf(from, false), apartOf(to, true))
  return apart
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
