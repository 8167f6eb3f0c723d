import type { Durability, Epoch, NodeId, RegionName, ShardState } from '../directory/topology.ts'
import type { Lsn } from '../postgres/lsn.ts'
import type { GovernedPlacement, Refusal, Regions } from '../directory/policy.ts'
import { decidePlacement, whatIf } from '../directory/policy.ts'

/**
 * Promotion: which follower becomes the primary of a shard, and when that is safe.
 *
 * The simple way is to promote whoever answers. It loses in two ways: the one that answers may lack what another
 * follower acknowledged, so that a commit which was told disappears; and it may be in a region that the law excludes,
 * which nobody notices until an auditor does.
 *
 * Owns: the plan. Does not own: server processes (the supervisor, Patroni or a command), what is legal
 * (`directory/policy.ts`), and what tokens of the old history may still claim (`session/proof.ts`).
 *
 *   V1  A target outside the legal regions of anything on the shard is refused before anything is touched.
 *   V2  Enough followers stop receiving from the old primary, before any of them is looked at, that no further commit
 *       can be acknowledged: of n that count for an acknowledgement of k, n - k + 1.
 *   V3  What is promoted has everything that the most advanced of those has. Every acknowledged commit is on at least
 *       one of them, because any k of n and any n - k + 1 of n have one in common.
 *   V4  The new history id and epoch are written on the promoted node before it takes traffic; PostgreSQL's timeline
 *       number does not identify a history (HZ-T2).
 *   V5  The old primary never takes a write again: it is stopped, its followers are gone, its epoch is old everywhere.
 *   V6  A promotion that fails behind its point of no return goes on by itself until the shard is open.
 *   V7  A shard whose names were changed takes no traffic until everything that its primary shows is on its followers.
 *   V8  A shard that its own data has closed, or at a later epoch, is not promoted while a cutover holds it: what a promoted
 *       node acknowledged would be replaced by what the cutover has decided on.
 *   V9  A follower that will not follow again is taken out of its shard, once nothing is on it alone, and its place is
 *       built anew.
 *   V10 A shard that does not come up at a start stays closed, keeps no other from its traffic, and can be failed over.
 */
export interface Candidate {
  readonly id: NodeId
  readonly region: RegionName
  /** Whether its acknowledgement counts towards a commit. */
  readonly counted: boolean
  /** What it has received and flushed since it stopped listening to the old primary; null when it does not answer. */
  readonly received: Lsn | null
}

export interface ShardUnderFailover {
  readonly durability: Durability
  /** How many counted followers must have acknowledged a commit. */
  readonly acknowledgements: number
  readonly primary: { readonly id: NodeId; readonly region: RegionName }
  readonly followers: readonly { readonly id: NodeId; readonly region: RegionName }[]
}

/** How a node has its shard in its own row. */
export interface DataStanding {
  readonly epoch: Epoch
  readonly state: ShardState
}

/**
 * V8, of what the nodes that answer say; a follower may be late. Undefined where none of them has the shard closed, or past
 * the epoch that the topology has.
 */
export function findHeld(epoch: Epoch, nodes: readonly DataStanding[]): DataStanding | undefined {
  return nodes.find((one) => one.epoch > epoch || (one.epoch === epoch && one.state !== 'open'))
}

export type TargetDecision =
  | { readonly kind: 'promote'; readonly regions: readonly RegionName[] }
  | { readonly kind: 'refused'; readonly region: RegionName; readonly refusals: readonly Refusal[] }
  | { readonly kind: 'none_legal'; readonly refused: readonly { region: RegionName; refusals: readonly Refusal[] }[] }
  | { readonly kind: 'no_follower'; readonly region: RegionName }

/** V1: where the primary may go, best first; of a wanted region, whether it may go there. */
export function decideTarget(
  shard: ShardUnderFailover,
  placements: readonly GovernedPlacement[],
  regions: Regions,
  wanted: RegionName | undefined,
): TargetDecision {
  if (wanted !== undefined) {
    const decision = decidePlacement({ holding: 'authority', region: wanted }, placements, regions)
    if (!decision.allowed) return { kind: 'refused', region: wanted, refusals: decision.refusals }
    if (!shard.followers.some(({ region }) => region === wanted)) return { kind: 'no_follower', region: wanted }
    return { kind: 'promote', regions: [wanted] }
  }
  const options = whatIf(placements, shard.followers, regions)
  if (options.legal.length === 0) return { kind: 'none_legal', refused: options.refused }
  return { kind: 'promote', regions: options.legal.map(({ region }) => region) }
}

export type PromotionPlan =
  /** `source` differs from `promote` when the legal target first has to fetch what another follower has. */
  | { readonly kind: 'promote'; readonly promote: NodeId; readonly source: NodeId }
  | { readonly kind: 'unsafe'; readonly answered: number; readonly needed: number }
  | { readonly kind: 'no_target' }

/** V2, V3: whom to promote, of the followers as they stand now that none of them receives from the old primary. */
export function planPromotion(
  candidates: readonly Candidate[],
  acknowledgements: number,
  regions: readonly RegionName[],
): PromotionPlan {
  const counted = candidates.filter((candidate) => candidate.counted)
  const answered = counted.filter(({ received }) => received !== null).length
  // Where nobody counts any more, nobody can show what those who did have acknowledged.
  const needed = Math.max(1, counted.length - acknowledgements + 1)
  if (acknowledgements > 0 && answered < needed) return { kind: 'unsafe', answered, needed }
  const reachable = candidates.flatMap(({ received, ...rest }) => (received === null ? [] : [{ ...rest, received }]))
  const source = reachable.reduce<(typeof reachable)[number] | undefined>(
    (best, one) => (best === undefined || one.received > best.received ? one : best),
    undefined,
  )
  if (source === undefined) return { kind: 'no_target' }
  for (const region of regions) {
    const here = reachable.filter((candidate) => candidate.region === region)
    const target =
      here.find(({ id }) => id === source.id) ?? here.toSorted((a, b) => (a.received < b.received ? 1 : -1))[0]
    if (target !== undefined) return { kind: 'promote', promote: target.id, source: source.id }
  }
  return { kind: 'no_target' }
}
