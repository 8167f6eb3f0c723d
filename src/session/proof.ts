import { unreachable } from '../base/assert.ts'
import type { ShardName, TransactionId } from '../directory/topology.ts'
import type { Hlc } from '../hlc/hlc.ts'
import { wallMsOfHlc } from '../hlc/hlc.ts'
import type { Lsn } from '../postgres/lsn.ts'
import type { ForkVerdict, ShownBySnapshot } from './fork-point.ts'
import { currentHistory, idsNotShown, judgeHistory, refOf, standingOf } from './fork-point.ts'
import type { Frontier, HistoryFrontier } from './frontier.ts'
import { transactionIdsOf } from './frontier.ts'
import type { LsnBeforeSnapshot } from './session.ts'

/**
 * The proof of freshness: whether the snapshot that a node answers from contains what the session must not miss.
 *
 * The evidence comes from the same flight as the answer, and all of it but the position from the same snapshot. The
 * checks run in one order, and the first that fails is the verdict: the history (S4), the placement (S5), the position
 * or the ids that stand for it (S6, S7), every branch (S8), what a follower has shown (S9), the closed timestamp (S10).
 */

/** `causal` asks for everything that happened before, on any shard; `primary` for the node that writes. */
export type ReadLevel = 'session' | 'causal' | 'primary'

export interface Requirement {
  readonly level: ReadLevel
  readonly frontier: Frontier
  readonly shard: ShardName
  /** The version of the placement that the read was routed by; `undefined` when it reads no tenant's placement. */
  readonly routedPlacementVersion: number | undefined
}

export interface NodeEvidence extends ShownBySnapshot {
  readonly isPrimary: boolean
  /** The version of the placement row that the read was routed by, if this shard's row names this shard. */
  readonly placementVersion: number | undefined
  /** On a follower the replay position, on a primary the flush position. */
  readonly replayedBefore: LsnBeforeSnapshot
}

export type Verdict =
  | { readonly kind: 'proven' }
  /** Waiting helps, here or on a fresher node. */
  | { readonly kind: 'behind'; readonly missing: Missing }
  | { readonly kind: 'not_primary' }
  | {
      readonly kind: 'placement_stale'
      /** Who has not heard of the move: the node, which will, or the directory, which must be asked for anew. */
      readonly late: 'node' | 'directory'
      readonly routed: number
      readonly found: number | undefined
    }
  | ForkVerdict

export type Missing =
  | { readonly what: 'position'; readonly demanded: Lsn; readonly reached: Lsn; readonly lagBytes: bigint }
  | { readonly what: 'transactions'; readonly transactionIds: readonly TransactionId[] }
  | { readonly what: 'closed_timestamp'; readonly demanded: Hlc; readonly reached: Hlc; readonly lagMs: number }

/** The transaction ids that the proof row must look up, so that one query brings the whole evidence. */
export function evidenceQuestion(frontier: Frontier, shard: ShardName): TransactionId[] {
  return [...new Set(demandsOn(frontier, shard).flatMap((history) => transactionIdsOf(history)))]
}

export function decide(requirement: Requirement, evidence: NodeEvidence): Verdict {
  if (requirement.level === 'primary' && !evidence.isPrimary) return { kind: 'not_primary' }
  return (
    checkHistories(requirement, evidence) ??
    checkPlacement(requirement, evidence) ??
    checkPositions(requirement, evidence) ??
    checkTransactions(requirement, evidence) ??
    checkClosed(requirement, evidence) ?? { kind: 'proven' }
  )
}

/** Of several demands the one to tell is the one that names most; a node that does not know the history tells nothing. */
const tellFirst: readonly ForkVerdict['kind'][] = [
  'history_unknown',
  'history_rewritten',
  'write_lost',
  'history_changed',
]

function checkHistories({ frontier, shard }: Requirement, evidence: NodeEvidence): Verdict | undefined {
  const demands = demandsOn(frontier, shard)
  const current = refOf(currentHistory(evidence.histories))
  const verdicts = demands
    .map((history) => judgeHistory(history, frontier.timestamp, evidence))
    .filter((verdict) => verdict !== undefined)
  for (const kind of tellFirst) {
    const found = verdicts.find((verdict) => verdict.kind === kind)
    if (found !== undefined) return found
  }
  const oldest = demands.at(-1)
  if (oldest === undefined || frontier.shards.get(shard)?.historiesForgotten !== true) return undefined
  return { kind: 'history_changed', demanded: refOf(oldest), current }
}

function checkPlacement({ routedPlacementVersion: routed }: Requirement, evidence: NodeEvidence): Verdict | undefined {
  const found = evidence.placementVersion
  if (routed === undefined || found === routed) return undefined
  return {
    kind: 'placement_stale',
    late: found === undefined || found < routed ? 'node' : 'directory',
    routed,
    found,
  }
}

/** Older histories are honoured already: up to the fork by their place, past it by their ids. */
function checkPositions({ frontier, shard }: Requirement, evidence: NodeEvidence): Verdict | undefined {
  const reached = evidence.replayedBefore
  for (const history of demandsOn(frontier, shard)) {
    if (!isCurrent(history, evidence) || reached >= history.position) continue
    if (history.idsSuffice && history.lastTransactionIds.every((id) => evidence.visible.has(id))) continue
    const demanded = history.position
    return { kind: 'behind', missing: { what: 'position', demanded, reached, lagBytes: demanded - reached } }
  }
  return undefined
}

function checkTransactions({ frontier, shard }: Requirement, evidence: NodeEvidence): Verdict | undefined {
  const missing = demandsOn(frontier, shard).flatMap((history) => {
    if (!isCurrent(history, evidence)) return idsNotShown(history, frontier.timestamp, evidence).awaited
    return history.pending
      .filter((branch) => !evidence.visible.has(branch.transactionId) && branch.timestamp > evidence.closedTimestamp)
      .map((branch) => branch.transactionId)
  })
  if (missing.length === 0) return undefined
  return { kind: 'behind', missing: { what: 'transactions', transactionIds: [...new Set(missing)] } }
}

function checkClosed({ level, frontier, shard }: Requirement, evidence: NodeEvidence): Verdict | undefined {
  const current = demandsOn(frontier, shard).filter((history) => isCurrent(history, evidence))
  const demands = current.flatMap((history) => {
    if (history.pendingForgotten) return [frontier.timestamp]
    return evidence.isPrimary && history.seenTimestamp !== undefined ? [history.seenTimestamp] : []
  })
  if (level === 'causal') demands.push(frontier.timestamp)
  const reached = evidence.closedTimestamp
  const demanded = demands.reduce<Hlc>((greatest, timestamp) => (timestamp > greatest ? timestamp : greatest), reached)
  if (demanded === reached) return undefined
  const lagMs = wallMsOfHlc(demanded) - wallMsOfHlc(reached)
  return { kind: 'behind', missing: { what: 'closed_timestamp', demanded, reached, lagMs } }
}

/** What to do about a verdict. `wait` may also go elsewhere; `refuse` is final, and the session has to be told. */
export type Remedy = 'answer' | 'wait' | 'reroute' | 'refresh_topology' | 'refresh_directory' | 'refuse'

export function remedyFor(verdict: Verdict): Remedy {
  switch (verdict.kind) {
    case 'proven':
      return 'answer'
    case 'behind':
      return 'wait'
    case 'history_unknown':
      return 'reroute'
    case 'not_primary':
      return 'refresh_topology'
    case 'placement_stale':
      return verdict.late === 'node' ? 'wait' : 'refresh_directory'
    case 'write_lost':
    case 'history_rewritten':
    case 'history_changed':
      return 'refuse'
    default:
      return unreachable(verdict)
  }
}

/**
 * The shards for which the session has met a placement that the directory cannot explain. The directory is then behind
 * the session and is asked for anew before it routes: a stale one leads to the old home, where nothing of the token
 * applies and an old row still vouches for the old version.
 */
export function unexplainedShards(
  frontier: Frontier,
  known: Iterable<{ readonly shard: ShardName; readonly version: number }>,
): ShardName[] {
  const placements = [...known]
  return [...frontier.shards].flatMap(([shard, { placementVersion }]) =>
    placements.some((placement) => placement.shard === shard && placement.version >= placementVersion) ? [] : [shard],
  )
}

function demandsOn(frontier: Frontier, shard: ShardName): readonly HistoryFrontier[] {
  return frontier.shards.get(shard)?.histories ?? []
}

function isCurrent(history: HistoryFrontier, evidence: NodeEvidence): boolean {
  return standingOf(history, evidence.histories).kind === 'current'
}
