import type { Epoch, HistoryId, ShardName, TransactionId } from '../directory/topology.ts'
import type { Hlc } from '../hlc/hlc.ts'
import type { Lsn } from '../postgres/lsn.ts'
import type { TransactionEnvironment } from './environment.ts'

/** The business action, and how it is to run. */
export interface TransactRequest {
  readonly tenant: string
  readonly action: string
  readonly subject: string
  readonly actor: string
  readonly idempotencyKey?: string | undefined
  /** What the key stands for beyond tenant, action, subject and actor. Survives JSON. */
  readonly request?: unknown
  readonly isolation?: Isolation | undefined
  /** The frontier of the caller's token: the commit gets a timestamp after it. */
  readonly observe?: Hlc | undefined
  /** Branches that the caller's token knows as decided and not yet seen settled: settled before their shard is used. */
  readonly pending?: readonly PendingOnShard[] | undefined
  /** Chosen by a caller that wants to ask for the outcome later; made here otherwise. */
  readonly transactionId?: TransactionId | undefined
}

export type Isolation = 'read committed' | 'repeatable read' | 'serializable'

export interface PendingOnShard {
  readonly shard: ShardName
  readonly transactionId: TransactionId
}

/** A branch that is decided and may not be settled yet; it becomes visible at this timestamp. */
export interface PendingBranch {
  readonly transactionId: TransactionId
  readonly timestamp: Hlc
}

export interface TouchedShard {
  readonly shard: ShardName
  readonly role: 'home' | 'participant'
  readonly historyId: HistoryId
  readonly epoch: Epoch
  /** The highest of the placements used on this shard; 0 when none was, as at a home that only holds the record. */
  readonly placementVersion: number
  /** Home: flushed after the commit. Participant: flushed after the prepare; the branch itself is `pending`. */
  readonly position: Lsn
  readonly pending?: PendingBranch
}

export interface Committed<T> {
  readonly value: T
  readonly transactionId: TransactionId
  readonly commitTimestamp: Hlc
  /** The home first. */
  readonly shards: readonly TouchedShard[]
  readonly replayed: boolean
}

/** What a caller's statement gave, in the form of `pg`. */
export interface QueryResult<R = Record<string, unknown>> {
  readonly rows: R[]
  readonly rowCount: number
  readonly fields: readonly { readonly name: string; readonly dataTypeID: number }[]
  readonly command: string
}

export interface DomainQuery {
  readonly text: string
  readonly values?: readonly unknown[]
  readonly rowMode?: 'array'
}

/** As much of a `pg` client as query builders use. */
export interface DomainClient {
  query<R = Record<string, unknown>>(query: string | DomainQuery, values?: readonly unknown[]): Promise<QueryResult<R>>
}

/** `rows`: how many rows the statement must affect; another number aborts the transaction with `transaction_refused`. */
export type BatchStatement = readonly [text: string, values?: readonly unknown[], expect?: { readonly rows: number }]

export interface Tx {
  readonly transactionId: TransactionId
  query<R = Record<string, unknown>>(domain: string, text: string, values?: readonly unknown[]): Promise<QueryResult<R>>
  batch(domain: string, statements: readonly BatchStatement[]): void
  emit(name: string, payload: unknown): void
  client(domain: string): DomainClient
}

export declare function transact<T>(
  environment: TransactionEnvironment,
  request: TransactRequest,
  body: (tx: Tx) => Promise<T>,
): Promise<Committed<T>>
