import type { Clock } from '../base/clock.ts'
import type { Metrics } from '../base/metrics.ts'
import type { OnStep } from '../base/step.ts'
import type { DirectorySource } from '../directory/directory.ts'
import type { FleetNode, RegionName, ShardName, ShardTopology, TopologySource } from '../directory/topology.ts'
import { HoldfastError } from '../base/errors.ts'
import type { ConnectionTarget } from '../postgres/statement.ts'
import type { ConnectionPools } from '../postgres/pools.ts'
import { Background, type OnBackgroundFailure } from './background.ts'
import { BarrierGroup, type Primary } from './barrier.ts'
import { ClockReadings } from './clock-readings.ts'
import { ReadingBatches } from './reading-batches.ts'

/** Where this process reaches a node, as the gateway role. */
export type TargetOf = (node: FleetNode) => ConnectionTarget

/** What the transactions of one process run in. Made once, by `transactionEnvironment`. */
export interface TransactionEnvironment extends TransactionParts {
  readonly limits: TransactionLimits
  readonly barriers: BarrierGroup
  readonly clocks: ClockReadings
  readonly readingBatches: ReadingBatches
  /** Settlements and journal entries that no caller waits for; `drain` waits for them before the pools close. */
  readonly background: Background
}

export interface TransactionParts {
  readonly fleet: string
  /** Where this process is. */
  readonly region: RegionName
  readonly topology: TopologySource
  readonly directory: DirectorySource
  readonly pools: ConnectionPools
  readonly targetOf: TargetOf
  readonly clock: Clock
  readonly metrics: Metrics
  readonly onStep: OnStep
  readonly onBackgroundFailure: OnBackgroundFailure
}

export interface TransactionLimits {
  /** A statement of the caller without an answer for this long: the connection is given up, nothing was decided. */
  readonly statementWithinMs: number
  /**
   * A statement that waits this long for one lock gives up, and the transaction is run again. A server sees a deadlock
   * only among its own: that of transactions which wait for each other on two shards ends here.
   */
  readonly lockWithinMs: number
  /**
   * A statement that runs this long on its branch is ended by its server, which tells so. Less than `statementWithinMs`,
   * behind which only a silent server is left.
   */
  readonly runWithinMs: number
  /** A commit or prepare without an answer for this long is *unknown*; it is asked for, never cancelled. */
  readonly commitWithinMs: number
  /** How long an unknown outcome is asked for before it is called ambiguous. */
  readonly outcomeWithinMs: number
  /** Of observe, barrier and settlement, each. */
  readonly serviceWithinMs: number
  readonly serializationRetriesMax: number
}

export const transactionLimitsDefault: TransactionLimits = {
  statementWithinMs: 60_000,
  lockWithinMs: 4_000,
  runWithinMs: 50_000,
  commitWithinMs: 10_000,
  outcomeWithinMs: 10_000,
  serviceWithinMs: 5_000,
  serializationRetriesMax: 5,
}

export function transactionEnvironment(
  parts: TransactionParts,
  limits: TransactionLimits = transactionLimitsDefault,
): TransactionEnvironment {
  const barriers = new BarrierGroup((shard) => primaryOf(parts, shard), parts.pools, limits.serviceWithinMs)
  return {
    ...parts,
    limits,
    barriers,
    clocks: new ClockReadings(),
    readingBatches: new ReadingBatches(),
    background: new Background(parts.onBackgroundFailure),
  }
}

/** A shard of the topology. Throws `unknown_shard`. */
export function shardOf(parts: Pick<TransactionParts, 'topology'>, name: ShardName): ShardTopology {
  const shard = parts.topology.current().shards.get(name)
  if (shard !== undefined) return shard
  throw new HoldfastError('unknown_shard', `no shard ${name} in the topology`, { detail: { shard: name } })
}

/** The primary of a shard now, by what this process knows: whom to read, and to name where a barrier is to speak for it. */
export function primaryOf(parts: Pick<TransactionParts, 'topology' | 'targetOf'>, name: ShardName): Primary {
  const { primary } = shardOf(parts, name)
  return { id: primary.id, target: parts.targetOf(primary) }
}

export function primaryTarget(
  parts: Pick<TransactionParts, 'topology' | 'targetOf'>,
  name: ShardName,
): ConnectionTarget {
  return primaryOf(parts, name).target
}
