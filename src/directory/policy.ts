import { z } from 'zod'
import type { Brand } from '../base/brand.ts'
import type { DomainName, Jurisdiction, NodeId, RegionName, TenantName } from './topology.ts'

/**
 * Residency policy, and the one function that decides by it.
 *
 * Every path that puts regulated data somewhere asks `decidePlacement`: manual failover, restore cutover, a base
 * backup, and for followers and archives the configuration, which a start holds against the rows (P6). There is no
 * second opinion, so there is no path that forgot the law. The function is pure and total: the same question over the same placements has the same
 * answer, and a region it does not know is a refusal, never an exception.
 *
 *   L1  Authority is allowed in a region only when every policy on the shard lists that region.
 *   L2  A replica or a backup is allowed in a region only when every policy lists its jurisdiction.
 *   L3  More placements never allow what fewer refused: a shard is as free as its strictest tenant.
 *   L4  A refusal names each tenant and domain that refuses, the version of its policy, why, and what is legal.
 *   L5  Fencing exactly the placements that a refusal names makes the same question allowed, if the region is known.
 *   L6  An unknown region is never allowed, not even for data without a policy.
 */

/** What a tenant gets when no legal region can hold its authority. */
export type Otherwise = 'read-only' | 'reject'

export type PolicyVersion = Brand<number, 'PolicyVersion'>

export interface ResidencyPolicy {
  /** Regions that may hold the authority, in failover order; never empty, no repetition. */
  readonly authority: readonly RegionName[]
  /** Jurisdictions that may hold replicas and backups. */
  readonly replicas: readonly Jurisdiction[]
  readonly otherwise: Otherwise
}

/** The part of a placement that the law is about. Reference and derived data has no policy and may be anywhere. */
export interface GovernedPlacement {
  readonly tenant: TenantName
  readonly domain: DomainName
  readonly policy: ResidencyPolicy | null
  readonly policyVersion: PolicyVersion
}

/** `authority`: a primary that takes writes. `replica`: a follower. `backup`: base backups, WAL archive, redo stream. */
export type Holding = 'authority' | 'replica' | 'backup'

export interface PlacementQuestion {
  readonly holding: Holding
  readonly region: RegionName
}

export type RefusalReason = 'region_unknown' | 'region_not_in_authority' | 'jurisdiction_not_in_replicas'

export interface Refusal {
  readonly tenant: TenantName
  readonly domain: DomainName
  readonly policyVersion: PolicyVersion
  readonly reason: RefusalReason
  /** Where this policy allows it: for the authority in failover order, else in the order of the regions. */
  readonly legal: readonly RegionName[]
  /** What this tenant gets when nothing legal is left. `null` for data without a policy. */
  readonly otherwise: Otherwise | null
}

export type PlacementDecision =
  | { readonly allowed: true }
  | {
      readonly allowed: false
      readonly question: PlacementQuestion
      /** Empty only when the region is unknown and the shard holds nothing. */
      readonly refusals: readonly Refusal[]
    }

export type Regions = ReadonlyMap<RegionName, Jurisdiction>

/** May everything in `placements` be held like this in that region? */
export function decidePlacement(
  question: PlacementQuestion,
  placements: readonly GovernedPlacement[],
  regions: Regions,
): PlacementDecision {
  const refusals = placements.flatMap((placement) => refuse(question, placement, regions) ?? [])
  if (refusals.length === 0 && regions.has(question.region)) return { allowed: true }
  return { allowed: false, question, refusals }
}

function refuse(question: PlacementQuestion, placement: GovernedPlacement, regions: Regions): Refusal | undefined {
  const { tenant, domain, policy, policyVersion } = placement
  const reason = reasonToRefuse(question, policy, regions)
  if (reason === undefined) return undefined
  const legal = legalRegions(question.holding, policy, regions)
  return { tenant, domain, policyVersion, reason, legal, otherwise: policy?.otherwise ?? null }
}

function reasonToRefuse(
  { holding, region }: PlacementQuestion,
  policy: ResidencyPolicy | null,
  regions: Regions,
): RefusalReason | undefined {
  const jurisdiction = regions.get(region)
  if (jurisdiction === undefined) return 'region_unknown'
  if (policy === null) return undefined
  if (holding === 'authority') return policy.authority.includes(region) ? undefined : 'region_not_in_authority'
  return policy.replicas.includes(jurisdiction) ? undefined : 'jurisdiction_not_in_replicas'
}

/** Where one policy allows a holding: for the authority in failover order, else in the order of the regions. */
export function legalRegions(holding: Holding, policy: ResidencyPolicy | null, regions: Regions): RegionName[] {
  if (policy === null) return [...regions.keys()]
  if (holding === 'authority') return policy.authority.filter((region) => regions.has(region))
  return [...regions].filter(([, jurisdiction]) => policy.replicas.includes(jurisdiction)).map(([region]) => region)
}

/** One line a person can act on, e.g. for the message of `residency_denied`. */
export function describeRefusal(question: PlacementQuestion, refusal: Refusal): string {
  if (refusal.reason === 'region_unknown') return `${question.region} is not a region of this fleet`
  const holding = question.holding === 'authority' ? 'the authority' : `a ${question.holding}`
  const legal = refusal.legal.length === 0 ? 'no region' : refusal.legal.join(', ')
  return (
    `policy version ${refusal.policyVersion} of tenant ${refusal.tenant}, domain ${refusal.domain} ` +
    `forbids ${holding} in ${question.region}; it allows ${legal}`
  )
}

export interface FollowerPlace {
  readonly id: NodeId
  readonly region: RegionName
}

export interface FailoverOption {
  readonly region: RegionName
  readonly followers: readonly NodeId[]
}

export interface FailoverOptions {
  /** Regions with a follower where the authority is legal for everything on the shard, best first. */
  readonly legal: readonly FailoverOption[]
  /** Regions with a follower where it is not. Fencing what the refusals name first would make them legal. */
  readonly refused: readonly (FailoverOption & { readonly refusals: readonly Refusal[] })[]
  /** Legal regions that have no follower to promote, best first. */
  readonly withoutFollower: readonly RegionName[]
}

/**
 * Every way out if the primary of a shard were lost now, without changing anything.
 *
 * Policies on one shard may order the same regions differently. The order here puts the region first whose worst
 * rank in any policy is best, then the one with the best sum of ranks, then the order of the regions.
 */
export function whatIf(
  placements: readonly GovernedPlacement[],
  followers: readonly FollowerPlace[],
  regions: Regions,
): FailoverOptions {
  const known = [...regions.keys()]
  const elsewhere = followers.map((follower) => follower.region).filter((region) => !regions.has(region))
  const legal: FailoverOption[] = []
  const refused: (FailoverOption & { refusals: readonly Refusal[] })[] = []
  const withoutFollower: RegionName[] = []
  for (const region of byFailoverOrder([...known, ...new Set(elsewhere)], placements)) {
    const here = followers.filter((follower) => follower.region === region).map((follower) => follower.id)
    const decision = decidePlacement({ holding: 'authority', region }, placements, regions)
    if (here.length === 0) {
      if (decision.allowed) withoutFollower.push(region)
    } else if (decision.allowed) legal.push({ region, followers: here })
    else refused.push({ region, followers: here, refusals: decision.refusals })
  }
  return { legal, refused, withoutFollower }
}

function byFailoverOrder(regions: readonly RegionName[], placements: readonly GovernedPlacement[]): RegionName[] {
  const orders = placements.flatMap(({ policy }) => (policy === null ? [] : [policy.authority]))
  const ranked = regions.map((region, position) => {
    const ranks = orders.map((order) => (order.includes(region) ? order.indexOf(region) : order.length))
    return { region, position, worst: Math.max(0, ...ranks), sum: ranks.reduce((sum, rank) => sum + rank, 0) }
  })
  ranked.sort((a, b) => a.worst - b.worst || a.sum - b.sum || a.position - b.position)
  return ranked.map(({ region }) => region)
}

const policyForm = z.object({
  authority: z.array(z.string().transform((name) => name as RegionName)).min(1),
  replicas: z.array(z.string().transform((name) => name as Jurisdiction)),
  otherwise: z.enum(['read-only', 'reject']),
})

/** The policy of a stored JSON value, e.g. of `holdfast.placement.policy`. Throws when it is not one: a defect. */
export function policyFromJson(value: unknown): ResidencyPolicy {
  return policyForm.parse(value)
}
