/** Strongly connected components of a graph, and a shortest cycle through an edge. Nodes are small numbers. */
export type Edges = ReadonlyMap<number, Iterable<number>>

/** Components of more than one node (Tarjan, without recursion: histories are long). */
export function components(nodes: Iterable<number>, edges: Edges): number[][] {
  const order = new Map<number, number>()
  const low = new Map<number, number>()
  const stack: number[] = []
  const onStack = new Set<number>()
  const found: number[][] = []
  for (const root of nodes) {
    if (order.has(root)) continue
    const work: { readonly node: number; readonly next: Iterator<number> }[] = []
    const enter = (node: number) => {
      order.set(node, order.size)
      low.set(node, order.size - 1)
      stack.push(node)
      onStack.add(node)
      work.push({ node, next: (edges.get(node) ?? [])[Symbol.iterator]() })
    }
    enter(root)
    for (let frame = work.at(-1); frame !== undefined; frame = work.at(-1)) {
      const { node, next } = frame
      const step = next.next()
      if (step.done !== true) {
        if (!order.has(step.value)) enter(step.value)
        else if (onStack.has(step.value)) low.set(node, Math.min(at(low, node), at(order, step.value)))
        continue
      }
      work.pop()
      const parent = work.at(-1)
      if (parent !== undefined) low.set(parent.node, Math.min(at(low, parent.node), at(low, node)))
      if (at(low, node) === at(order, node)) {
        const component = stack.splice(stack.lastIndexOf(node))
        for (const member of component) onStack.delete(member)
        if (component.length > 1) found.push(component)
      }
    }
  }
  return found
}

/** The nodes of a shortest path, both ends included; undefined when there is none. */
export function shortestPath(from: number, to: number, edges: Edges): number[] | undefined {
  const before = new Map<number, number | undefined>([[from, undefined]])
  const queue = [from]
  for (const node of queue) {
    if (node === to) {
      const path: number[] = []
      for (let step: number | undefined = node; step !== undefined; step = before.get(step)) path.unshift(step)
      return path
    }
    for (const next of edges.get(node) ?? []) {
      if (before.has(next)) continue
      before.set(next, node)
      queue.push(next)
    }
  }
  return undefined
}

function at(map: ReadonlyMap<number, number>, node: number): number {
  const value = map.get(node)
  if (value === undefined) throw new Error(`node ${node} was not entered`)
  return value
}
