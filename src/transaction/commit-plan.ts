import type { HoldfastError } from '../base/errors.ts'
import type { ShardName, TransactionId } from '../directory/topology.ts'
import type { Hlc } from '../hlc/hlc.ts'
import type { Lsn } from '../postgres/lsn.ts'
import type { ShardTransaction } from './shard-transaction.ts'
import type { BusinessAction } from './transaction-store.ts'

/** What is to be committed: the caller's function has returned, nothing of it is on its way any more. */
export interface CommitPlan {
  readonly transactionId: TransactionId
  readonly business: BusinessAction
  readonly home: ShardTransaction
  readonly participants: readonly ShardTransaction[]
  /** Participants that only read: they vote, and are in no record. */
  readonly readers: readonly ShardTransaction[]
  /** The stamp must lie above it. */
  readonly frontier: Hlc
  /** JSON text; null without an idempotency key. */
  readonly value: string | null
  /** JSON text of the events for the outbox. */
  readonly events: string
  /**
   * Asked once, when the decision is about to be sent: what of the caller was refused since his function returned (A3). Behind that
   * nothing changes the outcome any more.
   */
  readonly lastRefusal: () => HoldfastError | undefined
}

export type CommitEnd =
  | {
      readonly kind: 'committed'
      readonly timestamp: Hlc
      /** Of home, after the commit. */
      readonly position: Lsn
      /** Of each participant, after its prepare; of each reader, after its vote. */
      readonly prepared: ReadonlyMap<ShardName, Lsn>
    }
  | { readonly kind: 'aborted'; readonly failure: HoldfastError }
  | { readonly kind: 'ambiguous'; readonly failure: HoldfastError }
