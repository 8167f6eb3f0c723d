import type { Hlc } from '../hlc/hlc.ts'
import type { Lsn } from '../postgres/lsn.ts'

/**
 * What is known about one transaction, as data. Each part was read somewhere, or could not be: what is not known says
 * why, and can then be neither proven nor broken.
 */
export type Known<T> = { readonly known: true; readonly value: T } | { readonly known: false; readonly why: string }

export function known<T>(value: T): Known<T> {
  return { known: true, value }
}

export function unknown(why: string): Known<never> {
  return { known: false, why }
}

export interface ProofFacts {
  readonly transactionId: string
  /** The home's row of the commit log; null when no primary has one. */
  readonly commit: Known<CommitFacts | null>
  /** The decision at home; null when there is none. */
  readonly record: Known<RecordFacts | null>
  /** One for each participant that anything names. */
  readonly branches: readonly { readonly shard: string; readonly branch: Known<BranchFacts> }[]
  /** The home and the participants. */
  readonly shards: readonly { readonly shard: string; readonly state: Known<ShardFacts> }[]
  /** One for each placement that home or branch wrote under. */
  readonly placements: readonly PlacementFacts[]
  /** Every node of the shards that were touched. */
  readonly nodes: readonly NodeFacts[]
  readonly archives: readonly { readonly shard: string; readonly archive: Known<ArchiveFacts> }[]
  readonly effects: Known<EffectFacts>
  /** The newest drill, or restore that was checked, that covers it; null when there was none. */
  readonly drill: Known<DrillFacts | null>
}

export interface CommitFacts {
  readonly home: string
  readonly commitTimestamp: Hlc
  readonly epoch: number
  readonly participants: readonly string[]
}

export interface RecordFacts {
  readonly outcome: 'COMMITTED' | 'ABORTED'
  readonly commitTimestamp: Hlc | null
  readonly homeEpoch: number
  readonly reason: string
}

/** `absent`: neither prepared nor committed at the participant. */
export type BranchFacts =
  | { readonly state: 'prepared' | 'absent' }
  | {
      readonly state: 'committed'
      readonly prepareTimestamp: Hlc
      readonly commitTimestamp: Hlc
      readonly epoch: number
      /** Its shard refused that timestamp, and let its clock pass it on somebody's word (C8). */
      readonly accepted: AcceptanceFacts | null
    }

export interface AcceptanceFacts {
  readonly actor: string
  readonly reason: string
  readonly clockBefore: Hlc
}

export interface ShardFacts {
  readonly epoch: number
  readonly historyId: string
  readonly closedTimestamp: Hlc
  /** Records of transactions born before this may be collected. */
  readonly collectedThroughMs: number
  /** Every history up to the present one. */
  readonly histories: readonly { readonly historyId: string; readonly epoch: number; readonly leftOut: boolean }[]
}

export interface PlacementFacts {
  readonly shard: string
  readonly domain: string
  /** The version that the transaction wrote under. */
  readonly version: number
  /** What the directory says today. Null when it has no such placement. */
  readonly directory: {
    readonly shard: string
    readonly version: number
    readonly policyVersion: number
    /** Where the shard's primary is. */
    readonly region: string
    /** Null when the policy allows it there. */
    readonly refusal: string | null
  } | null
}

export interface NodeFacts {
  readonly node: string
  readonly shard: string
  readonly role: 'primary' | 'follower'
  readonly seen: Known<{ readonly visible: boolean; readonly closedTimestamp: Hlc }>
}

export interface ArchiveFacts {
  readonly region: string
  /** Where the redo stream has the transaction; null when it has not, or not yet. */
  readonly redo: { readonly commitLsn: Lsn; readonly endLsn: Lsn } | null
  /** The redo stream has every transaction at or below it; null while it is empty. */
  readonly redoClosed: Hlc | null
  /** The newest base backup that ended before the transaction; null when there is none, or the position is not known. */
  readonly backup: { readonly id: string; readonly startLsn: Lsn } | null
  /** From that base backup on. */
  readonly wal: { readonly contiguousThrough: Lsn; readonly gaps: number; readonly checksumFailures: number } | null
}

export interface EffectFacts {
  readonly emitted: readonly { readonly eventId: string; readonly name: string }[]
  /** What the journal of deliveries has on events of this transaction. */
  readonly deliveries: readonly {
    readonly eventId: string
    readonly state: 'sending' | 'delivered' | 'failed'
    /** How often a delivery of it was acknowledged. */
    readonly timesDelivered: number
  }[]
  /** Whether anything is configured that sends them. */
  readonly receiver: boolean
}

export interface DrillFacts {
  readonly name: string
  /** ISO 8601. */
  readonly at: string
  /** It rebuilt the history through here. */
  readonly coveredThrough: Hlc
  readonly found: boolean
  readonly invariants: readonly { readonly name: string; readonly violations: number }[]
  readonly ok: boolean
}
