import { HoldfastError } from '../base/errors.ts'
import type { NodeId, RegionName, ShardName } from '../directory/topology.ts'
import { formatLsn } from '../postgres/lsn.ts'
import { currentHistory } from '../session/fork-point.ts'
import type { Frontier } from '../session/frontier.ts'
import { advanceByRead } from '../session/session.ts'
import type { RoutedPlacement } from './judgement.ts'
import { placementIn } from './judgement.ts'
import type { ProvenSnapshot } from './proven-snapshot.ts'
import type { ShardSnapshot } from './shard-snapshot.ts'

/** What is told of a snapshot that answered. */

/** Who answered, and why there. */
export interface Served {
  readonly shard: ShardName
  readonly node: NodeId
  readonly role: 'primary' | 'follower'
  readonly region: RegionName
  /** What the node had applied before the snapshot, as an LSN of the shard. */
  readonly appliedThrough: string
  readonly waitedMs: number
  /** True when a node that was to be asked first could not prove the frontier in time, or was lost. */
  readonly rerouted: boolean
}

/** A proven snapshot that a caller's statements were answered from. */
export interface Bound extends ProvenSnapshot {
  /** The highest of the placement versions that were used on the shard; 0 for none. */
  placementVersion: number
}

/** The frontier of a session that was shown a snapshot which proved it (R6). */
export function advanceBy(frontier: Frontier, { snapshot, placementVersion }: Bound): Frontier {
  const { proof, positionAfter, greatestTimestamp, node } = snapshot
  const { historyId, epoch } = currentHistory(proof.histories)
  return advanceByRead(frontier, {
    shard: node.shard,
    historyId,
    epoch,
    placementVersion,
    isPrimary: !proof.follows,
    position: positionAfter,
    closedTimestamp: proof.closedTimestamp,
    greatestTimestamp,
  })
}

export function servedBy({ snapshot, waitedMs, rerouted }: ProvenSnapshot): Served {
  const { node, proof, positionBefore } = snapshot
  return {
    shard: node.shard,
    node: node.id,
    role: proof.follows ? 'follower' : 'primary',
    region: node.region,
    appliedThrough: formatLsn(positionBefore),
    waitedMs: Math.round(waitedMs),
    rerouted,
  }
}

/** A snapshot is proven for one domain; each that it answers for has a placement of its own. */
export function requireServed({ proof, node: { shard } }: ShardSnapshot, routed: RoutedPlacement): void {
  const { domain, version } = routed
  const shown = placementIn(proof, routed)
  if (shown === undefined) {
    throw new HoldfastError('placement_stale', `${shard} does not show version ${version} of domain ${domain}`, {
      hint: 'send the read again; it is routed by the directory as it is then',
      detail: { shard, domain, version },
    })
  }
  if (shown.service !== 'reject') return
  throw new HoldfastError('tenant_rejected', `domain ${domain} is out of service`, { detail: { shard, domain } })
}
