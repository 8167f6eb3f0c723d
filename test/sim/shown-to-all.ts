import type { SessionOperation, SessionWrite } from './session-history.ts'

/** What was acknowledged to anybody, whoever reads: what levels promise that do not look at tokens. */
export class Acknowledged {
  /** By register, in the order of its writes, which is that of its values. */
  readonly #writes = new Map<string, SessionWrite[]>()
  readonly #byValue = new Map<string, SessionWrite>()

  constructor(operations: readonly SessionOperation[]) {
    for (const operation of operations) {
      if (operation.kind !== 'write') continue
      for (const register of operation.registers) {
        this.#byValue.set(`${register} ${operation.value}`, operation)
        if (operation.answeredAt === undefined) continue
        const known = this.#writes.get(register)
        if (known === undefined) this.#writes.set(register, [operation])
        else known.push(operation)
      }
    }
  }

  /** The greatest value that was acknowledged before; 0 for none. */
  before(register: string, calledAt: number): number {
    return this.#last(register, ({ answeredAt = Infinity }) => answeredAt < calledAt)?.value ?? 0
  }

  /** The greatest value that has no later timestamp. */
  upTo(register: string, timestamp: string | undefined): number {
    if (timestamp === undefined) return 0
    return this.#last(register, (write) => (write.timestamp ?? timestamp) <= timestamp)?.value ?? 0
  }

  /** The last write of several registers that whoever is shown the value must be shown as well. */
  impliedBy(register: string, value: number): SessionWrite | undefined {
    const shown = this.#byValue.get(`${register} ${value}`)
    // It is there, whatever was told of it.
    if (shown !== undefined && shown.registers.length > 1) return shown
    return this.#last(register, (write) => write.value <= value && write.registers.length > 1)
  }

  #last(register: string, is: (write: SessionWrite) => boolean): SessionWrite | undefined {
    const writes = this.#writes.get(register) ?? []
    for (let at = writes.length - 1; at >= 0; at -= 1) {
      const write = writes[at]
      if (write !== undefined && is(write)) return write
    }
    return undefined
  }
}

/** Transactions of which some of what was asked for is shown, and some is not. */
export function fracturesOf(shown: Readonly<Record<string, number>>, acknowledged: Acknowledged): string[] {
  return Object.entries(shown).flatMap(([register, value]) => {
    const whole = acknowledged.impliedBy(register, value)
    const absent = (whole?.registers ?? []).filter((other) => (shown[other] ?? Infinity) < (whole?.value ?? 0))
    return absent.map(
      (other) => `was shown ${value} of ${register} and ${shown[other]} of ${other}: both were ${whole?.value} at once`,
    )
  })
}
