import type { Violation } from './history.ts'

/**
 * Registers that only grow, one a client, which alone writes it; each write carries what its client had seen of the
 * others. In the order of each client's operations.
 */
export interface SessionHistory {
  readonly operations: readonly SessionOperation[]
}

export type SessionOperation =
  | { readonly kind: 'write'; readonly client: number; readonly register: number; readonly value: number }
  | {
      readonly kind: 'read'
      readonly client: number
      readonly register: number
      readonly value: number
      /** What the writer had seen when it wrote this value. */
      readonly carried: Readonly<Record<number, number>>
      readonly level: 'session' | 'causal'
      readonly nodes: readonly string[]
    }
  /** The token was given up: a new session. */
  | { readonly kind: 'begin'; readonly client: number }
  /** A write that was acknowledged, and that its session was told is lost. */
  | { readonly kind: 'told lost'; readonly client: number; readonly why: string }

/**
 * Read your writes and monotonic reads, at every level. At `causal` also what the writer of anything that was seen had
 * seen before, on whichever shard: writes follow reads, writes are monotonic, and both are transitive.
 */
export function checkSessions({ operations }: SessionHistory): Violation[] {
  const sessions = new Map<number, { direct: Map<number, number>; carried: Map<number, number> }>()
  const sessionOf = (client: number) => {
    const known = sessions.get(client) ?? { direct: new Map(), carried: new Map() }
    sessions.set(client, known)
    return known
  }
  return operations.flatMap((operation, index) => {
    if (operation.kind === 'told lost') {
      return [{ kind: 'lost', explanation: `client ${operation.client}: ${operation.why}`, operations: [index] }]
    }
    if (operation.kind === 'begin') {
      sessions.delete(operation.client)
      return []
    }
    const { direct, carried } = sessionOf(operation.client)
    const { register, value } = operation
    const violations: Violation[] = []
    if (operation.kind === 'read') {
      const { client, level, nodes } = operation
      const about = `client ${client} was shown ${value} of register ${register} at ${level} by ${nodes.join(' ')}`
      const before = direct.get(register) ?? 0
      const kind = register === client ? 'read your writes' : 'monotonic reads'
      if (value < before) violations.push({ kind, explanation: `${about}, after ${before}`, operations: [index] })
      const caused = carried.get(register) ?? 0
      if (level === 'causal' && value < caused) {
        const explanation = `${about}, and what it was shown before had come after ${caused}`
        violations.push({ kind: 'causal', explanation, operations: [index] })
      }
      for (const [other, seen] of Object.entries(operation.carried)) raise(carried, Number(other), seen)
    }
    raise(direct, register, value)
    raise(carried, register, value)
    return violations
  })
}

function raise(values: Map<number, number>, register: number, value: number): void {
  values.set(register, Math.max(value, values.get(register) ?? 0))
}
