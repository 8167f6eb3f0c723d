/** The links of the chain, in the order in which each leans on the one before. */
export const proofLinkNames = [
  'placement',
  'authority',
  'order',
  'decision',
  'visibility',
  'durability',
  'effects',
  'recovery',
] as const

export type ProofLinkName = (typeof proofLinkNames)[number]

/** `pending`: not known, or not so yet. `broken`: known to be otherwise. */
export type ProofStatus = 'proven' | 'pending' | 'broken'

export interface ProofLink extends Verdict {
  readonly link: ProofLinkName
}

export interface Verdict {
  readonly status: ProofStatus
  /** For a person. */
  readonly reason: string
  /** What the verdict rests on: ids, positions, timestamps in text form. Survives JSON. */
  readonly facts: Readonly<Record<string, unknown>>
}

type Facts = Verdict['facts']

export const proven = (reason: string, facts: Facts = {}): Verdict => ({ status: 'proven', reason, facts })
export const pending = (reason: string, facts: Facts = {}): Verdict => ({ status: 'pending', reason, facts })
export const broken = (reason: string, facts: Facts = {}): Verdict => ({ status: 'broken', reason, facts })

/**
 * Of several verdicts on one link, what holds for all of them: broken when one is, else pending when one is (V2). The
 * reasons are those that decided; the facts of all are kept.
 */
export function strictest(verdicts: readonly Verdict[]): Verdict {
  const status = (['broken', 'pending', 'proven'] as const).find((each) => verdicts.some((v) => v.status === each))
  if (status === undefined) return pending('nothing was asked')
  const deciding = verdicts.filter((verdict) => verdict.status === status)
  const [only] = verdicts
  return {
    status,
    reason: [...new Set(deciding.map(({ reason }) => reason))].join('; '),
    facts: verdicts.length === 1 && only !== undefined ? only.facts : { parts: verdicts.map(({ facts }) => facts) },
  }
}
