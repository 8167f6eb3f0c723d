import { unreachable } from '../base/assert.ts'
import type { PlacementVersion } from '../directory/directory.ts'
import type { DomainName, HistoryId, ShardName } from '../directory/topology.ts'
import type { Hlc } from '../hlc/hlc.ts'
import { wallMsOfHlc } from '../hlc/hlc.ts'
import type { Lsn } from '../postgres/lsn.ts'
import type { HistoryRef } from '../session/fork-point.ts'
import { currentHistory, refOf } from '../session/fork-point.ts'
import type { Frontier } from '../session/frontier.ts'
import type { NodeEvidence, ReadLevel as ProofLevel, Verdict } from '../session/proof.ts'
import { decide } from '../session/proof.ts'
import type { LsnBeforeSnapshot } from '../session/session.ts'
import type { Awaited } from './freshness-watch.ts'
import type { ProofRow, ShownPlacement } from './read-store.ts'

/** What a read demands of a shard, and whether a snapshot satisfies it. Pure: the session's table decides. */
export interface Demand {
  readonly shard: ShardName
  readonly level: ProofLevel
  readonly frontier: Frontier
  /** How the read was routed here; undefined when it reads no tenant's placement. */
  readonly routed: RoutedPlacement | undefined
  /** The least closed timestamp of a read with bounded staleness. */
  readonly closedAtLeast: Hlc | undefined
}

export interface RoutedPlacement {
  readonly domain: DomainName
  readonly version: PlacementVersion
}

/** The parts of a snapshot that are judged. */
export interface Shown {
  readonly proof: ProofRow
  readonly positionBefore: LsnBeforeSnapshot
}

/**
 * The verdict over a snapshot. Before the session's own demands: the node is in the history that the fleet is in, so
 * that an old primary that came back is not read even by those who carry no token.
 */
export function judge(demand: Demand, known: HistoryRef, { proof, positionBefore }: Shown): Verdict {
  if (!proof.histories.some(({ historyId }) => historyId === known.historyId)) {
    return { kind: 'history_unknown', demanded: refOf(known), current: refOf(currentHistory(proof.histories)) }
  }
  const { level, frontier, shard, routed, closedAtLeast } = demand
  const evidence: NodeEvidence = {
    histories: proof.histories,
    visible: proof.visible,
    closedTimestamp: proof.closedTimestamp,
    isPrimary: !proof.follows,
    placementVersion: routed === undefined ? undefined : shownVersion(proof, routed),
    replayedBefore: positionBefore,
  }
  const verdict = decide({ level, frontier, shard, routedPlacementVersion: routed?.version }, evidence)
  if (verdict.kind !== 'proven' || closedAtLeast === undefined || proof.closedTimestamp >= closedAtLeast) return verdict
  const reached = proof.closedTimestamp
  const lagMs = wallMsOfHlc(closedAtLeast) - wallMsOfHlc(reached)
  return { kind: 'behind', missing: { what: 'closed_timestamp', demanded: closedAtLeast, reached, lagMs } }
}

/** A row that names another shard counts only when it is newer than what we routed by: then the directory is late. */
function shownVersion(proof: ProofRow, { domain, version }: RoutedPlacement): number | undefined {
  const row = proof.placements.get(domain)
  if (row === undefined) return undefined
  return row.shard === proof.shard || row.version > version ? row.version : undefined
}

/** The placement that a read was routed by, if the snapshot shows it here at that version. */
export function placementIn(proof: ProofRow, routed: RoutedPlacement): ShownPlacement | undefined {
  return shownVersion(proof, routed) === routed.version ? proof.placements.get(routed.domain) : undefined
}

/** What to wait for when the remedy of a verdict is to wait; `reached` is how far the node was. */
export function awaitedFor(verdict: Verdict, reached: Lsn, frontier: Frontier): Awaited {
  if (verdict.kind !== 'behind') return { what: 'progress', beyond: reached }
  const { missing } = verdict
  switch (missing.what) {
    case 'position':
      return { what: 'position', lsn: missing.demanded }
    case 'transactions':
      // Once the frontier is closed there is a verdict, if not the one that was hoped for.
      return { what: 'transactions', transactionIds: missing.transactionIds, orClosed: frontier.timestamp }
    case 'closed_timestamp':
      return { what: 'closed', timestamp: missing.demanded }
    default:
      return unreachable(missing)
  }
}

/** The greatest position of the shard's newest history that the frontier demands, to rank nodes by. */
export function demandedPosition(frontier: Frontier, shard: ShardName, history: HistoryId): Lsn {
  const histories = frontier.shards.get(shard)?.histories ?? []
  return histories.find(({ historyId }) => historyId === history)?.position ?? (0n as Lsn)
}

const retryAfterMsMin = 25
const retryAfterMsMax = 1_000

/** When a read that was refused may succeed: after what is missing, as far as that is a time. */
export function retryAfterMs(verdict: Verdict): number {
  const lagMs = verdict.kind === 'behind' && verdict.missing.what === 'closed_timestamp' ? verdict.missing.lagMs : 0
  return Math.min(retryAfterMsMax, Math.max(retryAfterMsMin, lagMs))
}
