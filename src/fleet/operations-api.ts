import type { Progress } from '../base/progress.ts'
import type { Hlc } from '../hlc/hlc.ts'

/** What operators ask of a fleet, and what they get. Part of the public library; all of it survives JSON but `Hlc`. */

export interface BackupRequest {
  /** All shards when left out. */
  readonly shards?: readonly string[] | undefined
  readonly onProgress?: Progress | undefined
}

export interface BackupReport {
  readonly shard: string
  readonly backupId: string
  /** The region whose archive holds it. */
  readonly region: string
  readonly startLsn: string
  readonly endLsn: string
  readonly bytes: number
  readonly durationMs: number
}

/** Exactly one of `before` and `at` names the target. */
export interface RestoreRequest {
  /** Up to just before this transaction: a transaction id, or `shard@LSN` of an unattributed commit. */
  readonly before?: string | undefined
  /** A commit timestamp in text form, or a UTC time in ISO 8601. */
  readonly at?: string | undefined
  /** Replay everything after the target except these, and what depends on them. */
  readonly without?: readonly string[] | undefined
  /** Where the environment lies. Of an embedded fleet always beside its own servers: `argument_invalid` (never). */
  readonly into?: string | undefined
  /** Only say what would be left out and which later transactions to review. */
  readonly dryRun?: boolean | undefined
  readonly onProgress?: Progress | undefined
}

export interface DrillRequest {
  /** As a restore takes it; without one the target of the configuration, or `end`. */
  readonly at?: string | undefined
  readonly onProgress?: Progress | undefined
}

export interface DropReport {
  readonly environment: string
  /** The servers that ran. Nothing of one that was dropped before. */
  readonly stopped: readonly string[]
  /** The folders that were there, by their paths. */
  readonly removed: readonly string[]
}

export interface Gate {
  readonly name: string
  readonly ok: boolean
  readonly durationMs: number
  readonly detail: string
}

export interface RestoreReport {
  /** Names the isolated environment; null of a dry run. */
  readonly environment: string | null
  readonly target: string
  readonly shards: readonly { readonly shard: string; readonly stopLsn: string; readonly backupId: string }[]
  /** What was asked to be left out, with all that had to go with it, and why. */
  readonly excluded: readonly { readonly name: string; readonly reason: string }[]
  readonly replayed: number
  /** Later transactions on the same keys: they may have read what is gone. For a person to review. */
  readonly review: readonly string[]
  /** A conflict is never overwritten: while there is one, the environment cannot be cut over. */
  readonly conflicts: readonly string[]
  readonly gates: readonly Gate[]
  readonly rtoMs: number
}

export interface InvariantsRequest {
  /** A restored environment; the fleet itself when left out. */
  readonly environment?: string | undefined
  /** All when left out. */
  readonly names?: readonly string[] | undefined
}

export interface InvariantResult {
  readonly name: string
  readonly severity: string
  /** How many rows violate the rule. */
  readonly violations: number
  /** The first of them, for a person. */
  readonly rows: readonly Readonly<Record<string, unknown>>[]
}

export interface CutoverRequest {
  readonly environment: string
  /**
   * Of an environment without the later history, everything behind its target is given up; of a shard none of whose nodes runs,
   * what its archive does not have. Refused unless said.
   */
  readonly acceptLoss?: boolean | undefined
  readonly onProgress?: Progress | undefined
}

export interface CutoverReport {
  readonly environment: string
  readonly shards: readonly { readonly shard: string; readonly epoch: number; readonly historyId: string }[]
  readonly leftOut: readonly string[]
  /** Effects that were delivered and whose cause is no longer in history: for compensation. */
  readonly compensations: readonly { readonly eventId: string; readonly name: string; readonly transactionId: string }[]
  readonly gates: readonly Gate[]
}

export interface FailoverRequest {
  readonly shard: string
  /** The best legal one when left out. */
  readonly to?: string | undefined
  readonly whatIf?: boolean | undefined
  readonly onProgress?: Progress | undefined
}

export interface FailoverReport {
  readonly shard: string
  /** Null of a question. */
  readonly promoted: {
    readonly node: string
    readonly region: string
    readonly epoch: number
    readonly historyId: string
  } | null
  readonly options: {
    readonly legal: readonly { readonly region: string; readonly followers: readonly string[] }[]
    readonly refused: readonly {
      readonly region: string
      readonly followers: readonly string[]
      readonly reasons: readonly string[]
    }[]
  }
  readonly durationMs: number
}

export interface TenantView {
  readonly tenant: string
  readonly home: string
  readonly placements: readonly {
    readonly domain: string
    readonly shard: string
    readonly version: number
    readonly service: 'full' | 'read-only' | 'reject'
    readonly policyVersion: number
    readonly policy: {
      readonly authority: readonly string[]
      readonly replicas: readonly string[]
      readonly otherwise: 'read-only' | 'reject'
    } | null
  }[]
}

export interface FleetStatus {
  readonly fleet: string
  /** Where this gateway is. */
  readonly region: string
  /** True when every shard is open and its primary answers. */
  readonly ready: boolean
  readonly shards: readonly ShardStatus[]
}

export interface ShardStatus {
  readonly shard: string
  /** `lost`: the primary is gone and the law leaves nowhere to promote; each tenant gets what its policy says. */
  readonly state: 'open' | 'fenced' | 'lost'
  readonly durability: 'quorum' | 'local'
  readonly epoch: number
  readonly historyId: string
  readonly closedTimestamp: Hlc | null
  readonly inDoubt: number
  /**
   * How many followers could acknowledge a commit now. At 0 writes wait, e.g. with `survive: region` once the only follower
   * of another region is gone. Null where none has to, and while the primary does not answer.
   */
  readonly acknowledging: number | null
  readonly nodes: readonly NodeStatus[]
}

export interface NodeStatus {
  readonly node: string
  readonly region: string
  readonly role: 'primary' | 'follower'
  readonly reachable: boolean
  /** Of a primary its flushed position, of a follower what it has replayed; null while unreachable. */
  readonly position: string | null
}

/** A prepared branch whose decision is not known where it is prepared. */
export interface InDoubtView {
  readonly gid: string
  readonly transactionId: string
  readonly home: string
  readonly participant: string
  readonly ageMs: number
  /** The decision as its home has it; null when there is none, or home does not tell. */
  readonly record: 'COMMITTED' | 'ABORTED' | null
  /** Whether its coordinator holds home's part of the transaction open; null where that was not asked. */
  readonly homeIsOpen: boolean | null
  /** What would become of it now, or what became of it. */
  readonly verdict:
    | 'commit'
    | 'roll back'
    | 'wait'
    | 'unknown'
    | 'committed'
    | 'rolled back'
    | 'left'
    | 'needs a person'
  readonly why: string
}

/** Whose clock is to pass the decisions that it refuses for their time, on whose word, and why. */
export interface AcceptClockRequest {
  readonly shard: string
  readonly actor: string
  readonly reason: string
}

export interface AcceptClockReport {
  /** What stands, be it of an earlier call of the same actor with the same reason. */
  readonly accepted: readonly ClockAcceptanceView[]
  /** What became of the branches on that shard. */
  readonly resolved: readonly InDoubtView[]
}

/** A decision that a shard refused for its time and a person accepted. Kept for good; timestamps in text form. */
export interface ClockAcceptanceView {
  readonly shard: string
  readonly transactionId: string
  readonly home: string
  /** The shard's clock was moved from here at least to `commitTimestamp`. */
  readonly clockBefore: string
  readonly commitTimestamp: string
  /** Of the shard's server, of the supervisor, and of the servers of other shards at that moment. */
  readonly wall: string
  readonly witness: string
  readonly walls: Readonly<Record<string, string>>
  readonly maxClockOffsetMs: number
  readonly actor: string
  readonly reason: string
  /** In ISO 8601, by the shard's server. */
  readonly acceptedAt: string
}

/** A route that is declared local and was answered in another region. Kept for 90 days since it last was. */
export interface DriftView {
  readonly route: string
  /** The region of the gateways that it was asked of. */
  readonly from: string
  /** The region that answered. */
  readonly to: string
  readonly shard: string
  readonly reads: number
  /** In ISO 8601, by the clocks of the gateways. */
  readonly firstAt: string
  readonly lastAt: string
}

/** A key of session tokens; its secret stays in its file. */
export interface TokenKeyView {
  readonly id: number
  /** `published`: every gateway verifies with it, and it will sign. `retired`: it verifies what it has signed. */
  readonly state: 'published' | 'signing' | 'retired'
  /** Of a retired key: from then on it verifies nothing, and the next rotation drops its secret. In ISO 8601; else null. */
  readonly goneAt: string | null
}

export interface ArchiveReport {
  readonly shard: string
  /** The region that keeps it. */
  readonly region: string
  /** Oldest first. */
  readonly baseBackups: readonly {
    readonly backupId: string
    readonly takenAt: string
    readonly timeline: number
    readonly startLsn: string
    readonly endLsn: string
    readonly bytes: number
  }[]
  /** From the newest base backup, a restore may stop anywhere between; null while it may not. */
  readonly restorable: { readonly from: string; readonly through: string; readonly timeline: number } | null
  /** Stretches of the log behind that backup that are not there although later ones are. */
  readonly gaps: readonly { readonly timeline: number; readonly from: string; readonly to: string }[]
  /** How far the redo stream goes, and since where without a hole; null while it is empty. */
  readonly redo: { readonly from: string; readonly through: string; readonly closedTimestamp: string } | null
}

export interface ArchiveVerdict {
  readonly shard: string
  readonly region: string
  readonly ok: boolean
  /** One sentence for each file that is damaged or missing. */
  readonly problems: readonly string[]
  readonly baseBackups: number
  readonly walSegments: number
  readonly redoTransactions: number
  readonly bytes: number
}
