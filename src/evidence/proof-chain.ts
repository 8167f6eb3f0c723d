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

export interface ProofLink {
  readonly link: ProofLinkName
  readonly status: ProofStatus
  /** One sentence for a person. */
  readonly reason: string
  /** What the verdict rests on: ids, positions, timestamps in text form. Survives JSON. */
  readonly facts: Readonly<Record<string, unknown>>
}
