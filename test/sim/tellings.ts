import type { Violation } from './history.ts'

/** What a client was told of a transaction, and what came of each question for its outcome when all was over. */
export interface Telling {
  readonly transactionId: string
  readonly told: 'committed' | 'failed' | 'unknown'
  /** `committed`, `aborted`, `refused`, `in_doubt`, or `none` where no trace is left. */
  readonly asked: readonly string[]
}

/** What was told committed is, what was told failed is not, and what nobody could tell has ended one way. */
export function checkTellings(tellings: readonly Telling[]): Violation[] {
  return tellings.flatMap(({ transactionId, told, asked }) => {
    const holds = asked.every((outcome) =>
      told === 'unknown'
        ? outcome !== 'in_doubt' && (outcome === 'committed') === (asked[0] === 'committed')
        : (outcome === 'committed') === (told === 'committed'),
    )
    if (holds) return []
    const explanation = `${transactionId} was told ${told} and is ${asked.join(', then ')}`
    return [{ kind: 'outcome', explanation, operations: [] }]
  })
}
