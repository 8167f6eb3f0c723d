import type { Violation } from './history.ts'

/** Clicks on *Approve*: a click may arrive several times, by several clients; a run may be clicked at more than once. */
export interface ClickHistory {
  readonly arrivals: readonly {
    readonly run: string
    /** The idempotency key: the same for every arrival of one click. */
    readonly key: string
    readonly invokedAt: number
    readonly completedAt: number
    readonly told: 'committed' | 'failed' | 'unknown'
    readonly transactionId: string | undefined
    /** Of a refusal. */
    readonly code: string | undefined
  }[]
  /** Runs that are approved at the end. */
  readonly approved: readonly string[]
  /** The rules of the books, and how many rows broke each. */
  readonly invariants: readonly { readonly name: string; readonly violations: number }[]
}

/** One approval a run, the same answer for every arrival of a click, and books that balance. */
export function checkClicks({ arrivals, approved, invariants }: ClickHistory): Violation[] {
  const violations: Violation[] = []
  const found = (kind: string, explanation: string) => violations.push({ kind, explanation, operations: [] })
  for (const [run, of] of grouped(arrivals, ({ run }) => run)) {
    const answers = new Set(of.flatMap(({ told, transactionId }) => (told === 'committed' ? [transactionId] : [])))
    if (answers.size > 1) found('approved twice', `${run} by ${[...answers].join(' and ')}`)
    if (answers.size > 0 && !approved.includes(run)) found('lost', `the approval of ${run} was acknowledged`)
    if (approved.includes(run) && of.every(({ told }) => told === 'failed')) {
      found('aborted', `${run} is approved, and every arrival was refused`)
    }
  }
  for (const [key, of] of grouped(arrivals, ({ key }) => key)) {
    const first = Math.min(...of.filter(({ told }) => told === 'committed').map(({ completedAt }) => completedAt))
    for (const { invokedAt, code } of of) {
      // A lost server refuses whatever it is asked; a rule of the application only says no to what was not done.
      if (invokedAt > first && (code === 'transaction_refused' || code === 'idempotency_conflict'))
        found('not replayed', `${key} was refused after its success`)
    }
  }
  for (const { name, violations: rows } of invariants) if (rows > 0) found('invariant', `${name}: ${rows} rows`)
  return violations
}

function grouped<T>(all: readonly T[], keyOf: (one: T) => string): Map<string, T[]> {
  const groups = new Map<string, T[]>()
  for (const one of all) groups.set(keyOf(one), [...(groups.get(keyOf(one)) ?? []), one])
  return groups
}
