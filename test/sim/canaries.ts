import type { Violation } from './history.ts'

/** One row a tenant, and who was shown what, or got through with what. */
export interface CanaryHistory {
  readonly sights: readonly {
    readonly by: string
    /** Of the rows that were shown. */
    readonly tenants: readonly string[]
    readonly where: string
    /** Nobody may be shown more than its own row; a session that nobody opened, no row. */
    readonly mayBeEmpty: boolean
  }[]
  /** Attempts that must be refused, by what was answered: a SQLSTATE or code, or `done`. */
  readonly attempts: readonly {
    readonly what: string
    readonly answer: string
    /** What may be answered. A lost connection says nothing. */
    readonly refusals: readonly string[]
  }[]
  /** Where each tenant's row stands at the end, and where it belongs. */
  readonly places: readonly { readonly tenant: string; readonly shards: readonly string[]; readonly home: string }[]
}

/** No tenant is shown or writes a row of another, and every row stands where its tenant is placed. */
export function checkCanaries({ sights, attempts, places }: CanaryHistory): Violation[] {
  return [
    ...sights.flatMap(({ by, tenants, where, mayBeEmpty }) => {
      const others = tenants.filter((tenant) => tenant !== by)
      if (others.length === 0 && (mayBeEmpty || tenants.length === 1)) return []
      const explanation = `${by} was shown [${tenants.join(' ')}] on ${where}`
      return [{ kind: 'foreign row', explanation, operations: [] }]
    }),
    ...attempts.flatMap(({ what, answer, refusals }) =>
      refusals.includes(answer) || answer === 'lost'
        ? []
        : [{ kind: 'not refused', explanation: `${what} was answered ${answer}`, operations: [] }],
    ),
    ...places.flatMap(({ tenant, shards, home }) =>
      shards.length === 1 && shards[0] === home
        ? []
        : [
            {
              kind: 'misplaced',
              explanation: `the row of ${tenant} is on [${shards.join(' ')}], not ${home}`,
              operations: [],
            },
          ],
    ),
  ]
}
