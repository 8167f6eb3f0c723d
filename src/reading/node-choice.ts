import { decidePlacement } from '../directory/policy.ts'
import type { GovernedPlacement, Regions } from '../directory/policy.ts'
import type { FleetNode, NodeId, RegionName, ShardTopology } from '../directory/topology.ts'
import type { Hlc } from '../hlc/hlc.ts'
import type { Lsn } from '../postgres/lsn.ts'
import type { Sighting } from './freshness-watch.ts'

/**
 * In which order the nodes of a shard are asked.
 *
 * The law comes first: a follower whose region the tenant's policy does not allow is never asked, however near and fresh.
 * Then what the caller prefers, distance, and among nodes at one distance what was last seen of them. All of it only
 * saves time; the proof decides.
 */
export interface NodeChoice {
  /** Where the reader is. */
  readonly region: RegionName
  readonly regions: Regions
  /** What may be read there; none for what no policy is about. */
  readonly placements: readonly GovernedPlacement[]
  readonly primaryOnly: boolean
  readonly prefer: NodeId | undefined
  readonly distanceMs: (from: RegionName, to: RegionName) => number
  readonly sightingOf: (node: NodeId) => Sighting
  /** What has failed this read before. */
  readonly avoid: ReadonlySet<NodeId>
  /** What the session demands of the shard, to choose among equals by what was last seen of them. */
  readonly demanded: { readonly position: Lsn; readonly closedTimestamp: Hlc }
}

export function rankNodes(shard: ShardTopology, choice: NodeChoice): FleetNode[] {
  // The primary of a shard that takes no traffic may show, after its crash, what no follower has (HZ-S2).
  const primaries = shard.state === 'open' ? [shard.primary] : []
  const candidates = choice.primaryOnly ? primaries : [...primaries, ...shard.followers.filter(isLegal(choice))]
  return candidates
    .map((node) => ({ node, rank: rankOf(node, choice) }))
    .toSorted((a, b) => compareRanks(a.rank, b.rank))
    .map(({ node }) => node)
}

function isLegal({ placements, regions }: NodeChoice): (follower: FleetNode) => boolean {
  return ({ region }) => decidePlacement({ holding: 'replica', region }, placements, regions).allowed
}

/** Smaller is asked earlier; the first difference decides. */
function rankOf(node: FleetNode, choice: NodeChoice): readonly number[] {
  const { freshness, lostAtMs } = choice.sightingOf(node.id)
  const { position, closedTimestamp } = choice.demanded
  const isBehind =
    freshness !== undefined && (freshness.replayed < position || freshness.closedTimestamp < closedTimestamp)
  return [
    // Until it is seen to answer: a reader that tried would wait in vain, and every other one with it.
    lostAtMs === undefined ? 0 : 1,
    choice.avoid.has(node.id) ? 1 : 0,
    node.id === choice.prefer ? 0 : 1,
    choice.distanceMs(choice.region, node.region) + (node.region === choice.region ? 0 : 1),
    isBehind ? 1 : 0,
    // At one distance a follower spares the primary.
    node.role === 'follower' ? 0 : 1,
  ]
}

function compareRanks(a: readonly number[], b: readonly number[]): number {
  for (const [index, ours] of a.entries()) {
    const difference = ours - (b[index] ?? 0)
    if (difference !== 0) return difference
  }
  return 0
}
