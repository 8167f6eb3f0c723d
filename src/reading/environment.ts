import type { Clock } from '../base/clock.ts'
import type { Metrics } from '../base/metrics.ts'
import type { DirectorySource } from '../directory/directory.ts'
import type {
  FleetNode,
  RegionName,
  ShardName,
  Topology,
  TopologySource,
  TransactionId,
} from '../directory/topology.ts'
import type { ConnectionTarget } from '../postgres/statement.ts'
import type { ConnectionPools } from '../postgres/pools.ts'
import type { DecidedSettled } from '../transaction/settle-decided.ts'
import { DriftJournal } from './drift-journal.ts'
import type { Remembered } from './expectation.ts'
import { FreshnessWatch } from './freshness-watch.ts'
import { RouteLabels } from './routes.ts'

/** What the reads of one process run in. Made once, by `readEnvironment`. */
export interface ReadEnvironment extends ReadParts {
  readonly limits: ReadLimits
  /** Who waits for a node, and what was last seen of it. */
  readonly watch: FreshnessWatch
  readonly routes: RouteLabels
  /** By the session of a server, what it has told. */
  readonly told: WeakMap<object, Remembered>
  /** Closed before the pools. */
  readonly drifts: DriftJournal
}

export interface ReadParts {
  /** Where this process is. */
  readonly region: RegionName
  readonly topology: TopologySource
  readonly directory: DirectorySource
  readonly pools: ConnectionPools
  /** Where this process reaches a node, as the gateway role. */
  readonly targetOf: (node: FleetNode) => ConnectionTarget
  readonly clock: Clock
  readonly metrics: Metrics
  /** The round trip between two regions; 0 within one. It ranks nodes and sizes budgets, and decides nothing else. */
  readonly distanceMs: (from: RegionName, to: RegionName) => number
  /** Settles a branch whose decision may be known, at its participant. Never rejects; a proof tells what came of it. */
  readonly settle: (participant: ShardName, transactionId: TransactionId) => Promise<void>
  /** Settles what was decided on a shard before the call. Throws `node_unavailable` or `shard_fenced` where that is not known, or not done within that time. */
  readonly settleAll: (participant: ShardName, withinMs: number) => Promise<DecidedSettled>
  /** Resolves when everything visible on this primary at the call is on its followers. Rejects when that is not known. */
  readonly barrier: (primary: FleetNode) => Promise<void>
}

export interface ReadLimits {
  /** How long a read may wait, for nodes to become fresh and for connections, when the request does not say. */
  readonly waitMs: number
  /** The same of a `strong` read: no other node can answer it, and what it waits for are everybody's branches. */
  readonly strongWaitMs: number
  /** A node that has not opened the snapshot for this long, beyond its distance, is taken for lost. */
  readonly openWithinMs: number
  /** A statement of the caller without an answer for this long: the connection is given up. */
  readonly statementWithinMs: number
  /** How often the caller's function is run when its snapshots are lost in the middle of it. */
  readonly runsMax: number
  /** A node that was lost is asked last, until it has answered a look. It is looked at no sooner than after this. */
  readonly avoidForMs: number
}

export const readLimitsDefault: ReadLimits = {
  waitMs: 50,
  strongWaitMs: 2_000,
  openWithinMs: 1_000,
  statementWithinMs: 60_000,
  runsMax: 3,
  avoidForMs: 2_000,
}

export function readEnvironment(parts: ReadParts, limits: ReadLimits = readLimitsDefault): ReadEnvironment {
  return {
    ...parts,
    limits,
    watch: new FreshnessWatch(parts),
    routes: new RouteLabels(),
    told: new WeakMap(),
    drifts: new DriftJournal(parts),
  }
}

/** The topology asked anew, or as it is known where nobody tells: a read has its own failure to tell. */
export function refreshed({ topology }: Pick<ReadEnvironment, 'topology'>): Promise<Topology> {
  return topology.refresh().catch(() => topology.current())
}

/** How long a node may take to open a snapshot before it counts as lost. */
export function openDeadlineMs(environment: ReadEnvironment, node: FleetNode): number {
  return environment.limits.openWithinMs + environment.distanceMs(environment.region, node.region)
}
