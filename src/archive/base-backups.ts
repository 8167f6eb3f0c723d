import type { PlacementDecision } from '../directory/policy.ts'
import type { Epoch, HistoryId, RegionName, ShardName } from '../directory/topology.ts'
import type { ConnectionTarget } from '../postgres/connection.ts'
import type { Lsn } from '../postgres/lsn.ts'

/** One whole base backup, as the archive lists it. */
export interface BaseBackupEntry {
  /** Sorts by age, e.g. `20260402T100005.120Z`. */
  readonly id: string
  readonly shard: ShardName
  /** The region whose archive this is. */
  readonly region: RegionName
  /** The log from here must be replayed, at least to `stopLsn`. */
  readonly startLsn: Lsn
  /** Before it the backup is not consistent, so no restore from it may stop earlier. */
  readonly stopLsn: Lsn
  readonly timeline: number
  readonly systemId: string
  readonly historyId: HistoryId
  readonly epoch: Epoch
  readonly takenAtMs: number
  readonly postgresVersion: string
  readonly bytes: number
  /** SHA-256 of the stored files, by name. */
  readonly sha256: Readonly<Record<string, string>>
}

export interface BackupSource {
  /** A role with `replication` that may read the `holdfast` schema, in the shard's database on its primary. */
  readonly target: ConnectionTarget
  readonly region: RegionName
  /** What the policy says about a backup of this shard in this region. */
  readonly decision: PlacementDecision
  readonly signal?: AbortSignal
}
