import type { Violation } from './history.ts'
import type { Telling } from './tellings.ts'
import { checkTellings } from './tellings.ts'

/** Money in accounts on several shards, as snapshots of all of them showed it. */
export interface BankHistory {
  readonly totalCents: number
  readonly looks: readonly {
    readonly when: string
    readonly shards: readonly { readonly cents: number; readonly leastCents: number }[]
  }[]
  readonly tellings: readonly Telling[]
}

/** Every snapshot has all of it, and no account is below zero. */
export function checkBank({ totalCents, looks, tellings }: BankHistory): Violation[] {
  const money = looks.flatMap(({ when, shards }) => {
    const found = shards.reduce((sum, { cents }) => sum + cents, 0)
    if (found === totalCents && shards.every(({ leastCents }) => leastCents >= 0)) return []
    const explanation = `${when}: ${shards.map(({ cents }) => cents).join(' + ')} of ${totalCents}`
    return [{ kind: 'money', explanation, operations: [] }]
  })
  return [...money, ...checkTellings(tellings)]
}
