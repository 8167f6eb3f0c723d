import type { Violation } from './history.ts'
import type { SessionHistory, SessionOperation, SessionRead, SessionWrite } from './session-history.ts'
import { Acknowledged, fracturesOf } from './shown-to-all.ts'

/**
 * The guarantees of sessions (Terry et al., 1994), with tokens that are joined and handed on.
 *
 * | kind | at | a read shows at least |
 * |---|---|---|
 * | `read your writes` | every level but `stale` | what its token's holders have written |
 * | `monotonic reads` | every level but `stale` | what they were shown |
 * | `causal` | `causal` | what happened before: also what the writer of anything that was seen had seen, transitively |
 * | `closed too early` | `causal` | what has no later timestamp than they have seen: the node has claimed to show all of that, whether it happened before or not |
 * | `strong` | `strong` | what was acknowledged to anybody before it was called |
 * | `stale` | `stale` | what was acknowledged, up to the timestamp that it asked for |
 * | `fractured` | `snapshot` | all of a transaction or none |
 *
 * The order of writes is their timestamps': `monotonic writes` and `writes follow reads` are broken by one that is not above
 * what its session had written, or had seen. And a read shows no value that nobody wrote, or whose write was refused.
 */
export function checkSessions(history: SessionHistory): Violation[] {
  return [...judgeSessions(history).violations]
}

export interface Judged {
  readonly violations: readonly Violation[]
  /** Reads of which a checker expected something that a late node would not have shown. */
  readonly reads: number
}

export function judgeSessions({ operations }: SessionHistory): Judged {
  const registers = [...new Set(operations.flatMap(registersOf))]
  const indexOf = new Map(registers.map((register, index) => [register, index]))
  const judge = new Judge(operations, indexOf)
  for (const [index, operation] of operations.entries()) judge.take(operation, index)
  return { violations: judge.violations, reads: judge.reads }
}

function registersOf(operation: SessionOperation): readonly string[] {
  if (operation.kind === 'write') return operation.registers
  return operation.kind === 'read' ? Object.keys(operation.shown) : []
}

/** What holders of a token have seen. Values by the index of their register. */
interface Seen {
  /** What they wrote or were shown. */
  readonly direct: Int32Array
  /** Also what the writers of that had seen. */
  readonly past: Int32Array
  /** The greatest timestamps of what they wrote, and of what they were shown. */
  readonly written: string
  readonly shown: string
}

class Judge {
  readonly violations: Violation[] = []
  reads = 0
  readonly #indexOf: ReadonlyMap<string, number>
  readonly #acknowledged: Acknowledged
  readonly #seen = new Map<number, Seen>()
  /** By register and value: the write, and what had happened before it, itself included. */
  readonly #writes = new Map<string, { readonly write: SessionWrite; readonly past: Int32Array }>()

  constructor(operations: readonly SessionOperation[], indexOf: ReadonlyMap<string, number>) {
    this.#indexOf = indexOf
    this.#acknowledged = new Acknowledged(operations)
  }

  take(operation: SessionOperation, index: number): void {
    if (operation.kind === 'write') this.#write(operation, index)
    else if (operation.kind === 'read') this.#read(operation, index)
    else this.#found('lost', `client ${operation.client}: ${operation.why}`, index)
  }

  #write(write: SessionWrite, index: number): void {
    const { client, value, timestamp } = write
    const before = this.#join(write.carried)
    const direct = before.direct.slice()
    const past = before.past.slice()
    for (const register of write.registers) {
      this.#raise(direct, register, value)
      this.#raise(past, register, value)
      this.#writes.set(`${register} ${value}`, { write, past })
    }
    if (timestamp === undefined || write.given === undefined) return
    const about = `client ${client} wrote ${value} at ${timestamp}`
    if (timestamp <= before.written) this.#found('monotonic writes', `${about}, and before at ${before.written}`, index)
    if (timestamp <= before.shown) this.#found('writes follow reads', `${about}, and saw ${before.shown}`, index)
    this.#seen.set(write.given, { direct, past, written: timestamp, shown: before.shown })
  }

  #read(read: SessionRead, index: number): void {
    const before = this.#join(read.carried)
    const { client, level, gateway, nodes } = read
    const about = `client ${client} at ${level} by ${gateway} from ${nodes.join(' ')}`
    let isJudged = false
    const expect = (kind: string, register: string, value: number, least: number) => {
      isJudged ||= least > 0
      if (value < least) this.#found(kind, `${about} was shown ${value} of ${register}, not ${least}`, index)
    }
    for (const [register, value] of Object.entries(read.shown)) {
      this.#mustBeWritten(register, value, about, index)
      const at = this.#indexOf.get(register) ?? -1
      if (level === 'stale') {
        expect('stale', register, value, this.#acknowledged.upTo(register, read.closedAtLeast))
        continue
      }
      const isOwn = register.endsWith(`/${client}`)
      expect(isOwn ? 'read your writes' : 'monotonic reads', register, value, before.direct[at] ?? 0)
      if (level === 'causal') {
        expect('causal', register, value, before.past[at] ?? 0)
        expect('closed too early', register, value, this.#acknowledged.upTo(register, latestOf(before)))
      }
      if (level === 'strong') expect('strong', register, value, this.#acknowledged.before(register, read.calledAt))
    }
    if (level === 'snapshot') {
      for (const why of fracturesOf(read.shown, this.#acknowledged)) this.#found('fractured', `${about} ${why}`, index)
    }
    if (isJudged) this.reads += 1
    this.#seen.set(read.given, level === 'stale' ? before : this.#after(before, read))
  }

  #after(before: Seen, { shown }: SessionRead): Seen {
    const direct = before.direct.slice()
    const past = before.past.slice()
    let latest = before.shown
    for (const [register, value] of Object.entries(shown)) {
      this.#raise(direct, register, value)
      const source = this.#writes.get(`${register} ${value}`)
      if (source === undefined) continue
      raiseAll(past, source.past)
      if ((source.write.timestamp ?? '') > latest) latest = source.write.timestamp ?? ''
    }
    return { direct, past, written: before.written, shown: latest }
  }

  #mustBeWritten(register: string, value: number, about: string, index: number): void {
    if (value === 0) return
    const source = this.#writes.get(`${register} ${value}`)
    if (source === undefined) this.#found('nobody wrote', `${about} was shown ${value} of ${register}`, index)
    else if (source.write.told === 'failed')
      this.#found('aborted read', `${about} was shown ${value} of ${register}, which was refused`, index)
  }

  #join(tokens: readonly number[]): Seen {
    const width = this.#indexOf.size
    const all = tokens.flatMap((token) => this.#seen.get(token) ?? [])
    const [only] = all
    if (only !== undefined && all.length === 1) return only
    const joined = { direct: new Int32Array(width), past: new Int32Array(width), written: '', shown: '' }
    for (const { direct, past, written, shown } of all) {
      raiseAll(joined.direct, direct)
      raiseAll(joined.past, past)
      if (written > joined.written) joined.written = written
      if (shown > joined.shown) joined.shown = shown
    }
    return joined
  }

  #raise(values: Int32Array, register: string, value: number): void {
    const at = this.#indexOf.get(register) ?? -1
    values[at] = Math.max(values[at] ?? 0, value)
  }

  #found(kind: string, explanation: string, index: number): void {
    this.violations.push({ kind, explanation, operations: [index] })
  }
}

/** The timestamp up to which the proof of a causal read has closed the shard, at least. */
const latestOf = ({ written, shown }: Seen) => (written > shown ? written : shown)

function raiseAll(values: Int32Array, others: Int32Array): void {
  for (const [at, other] of others.entries()) if (other > (values[at] ?? 0)) values[at] = other
}
