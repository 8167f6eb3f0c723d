import type { Violation } from './history.ts'
import type { ReplayHistory } from './replay-order.ts'
import { checkReplay } from './replay-order.ts'
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
  /** Of each shard: its accounts by its redo stream. */
  readonly replays: readonly ReplayHistory[]
}

/** Every snapshot has all of it, no account is below zero, and the redo stream comes to the same accounts. */
export function checkBank({ totalCents, looks, tellings, replays }: BankHistory): Violation[] {
  const money = looks.flatMap(({ when, shards }) => {
    const found = shards.reduce((sum, { cents }) => sum + cents, 0)
    if (found === totalCents && shards.every(({ leastCents }) => leastCents >= 0)) return []
    const explanation = `${when}: ${shards.map(({ cents }) => cents).join(' + ')} of ${totalCents}`
    return [{ kind: 'money', explanation, operations: [] }]
  })
  return [...money, ...checkTellings(tellings), ...replays.flatMap(checkReplay)]
}
