import type { Hlc } from '../hlc/hlc.ts'

/**
 * One committed transaction of the fleet's merged history. It carries the business action and nothing of the
 * rows: regulated fields do not leave home.
 */
export interface TimelineEntry {
  /** The transaction id; `shard@LSN` for a commit that no gateway stamped. */
  readonly name: string
  /** Null for an unattributed commit. */
  readonly transactionId: string | null
  /** Of an unattributed commit the highest stamp before it in its shard's log: it happened after that. */
  readonly commitTimestamp: Hlc
  readonly tenant: string | null
  readonly action: string | null
  readonly subject: string | null
  readonly actor: string | null
  /** Every shard that was written, the home first. */
  readonly shards: readonly string[]
  readonly attributed: boolean
}

export interface TimelineRange {
  /** One tenant's; all tenants' when left out. */
  readonly tenant?: string | undefined
  /** From this commit timestamp on, itself included. */
  readonly since?: Hlc | undefined
  /** Up to this commit timestamp, itself excluded. */
  readonly until?: Hlc | undefined
}
