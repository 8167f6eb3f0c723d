import type { TenantName, ShardName, TransactionId } from '../directory/topology.ts'
import type { Hlc } from '../hlc/hlc.ts'
import type { Lsn } from '../postgres/lsn.ts'

/**
 * One committed transaction of one shard as the redo stream has it: what changed, in rows, with the images before
 * and after. The stream holds a shard's transactions in commit order, which is the order of their commit records in
 * the WAL.
 */
export interface RedoTransaction {
  readonly shard: ShardName
  /** Where the commit record (or `COMMIT PREPARED` record) starts: the exclusive stop that leaves it out. */
  readonly commitLsn: Lsn
  /** Where it ends: the position from which the stream continues. */
  readonly endLsn: Lsn
  readonly xid: number
  /** PostgreSQL's own commit time, in milliseconds since the epoch. Not an order. */
  readonly committedAtMs: number
  readonly identity: RedoIdentity
  readonly changes: readonly RowChange[]
}

export type RedoIdentity =
  /** Stamped here: its row is in `commit_log`. */
  | ({ readonly kind: 'home'; readonly participants: readonly ShardName[] } & AttributedIdentity)
  /** A branch, settled here: its row is in `branch`, its timestamp came with an earlier `decision` row of the stream. */
  | ({
      readonly kind: 'branch'
      readonly home: ShardName
      readonly participants: readonly ShardName[]
    } & AttributedIdentity)
  /** Only tables of `holdfast` changed: decisions, records, directory. Follows its transaction, never excluded by itself. */
  | { readonly kind: 'platform'; readonly after: Hlc }
  /** Application rows changed without an opening: break-glass. Named `shard@LSN`; its place is after the highest stamp before it. */
  | { readonly kind: 'unattributed'; readonly after: Hlc }

interface AttributedIdentity {
  readonly transactionId: TransactionId
  readonly commitTimestamp: Hlc
  readonly tenant: TenantName
  readonly action: string
  readonly subject: string
  readonly actor: string
}

/** Column name to value in PostgreSQL's text form. */
export type RowImage = Readonly<Record<string, string | null>>

export type RowChange =
  | { readonly op: 'insert'; readonly relation: RelationName; readonly after: RowImage }
  | { readonly op: 'update'; readonly relation: RelationName; readonly before: RowImage; readonly after: RowImage }
  | { readonly op: 'delete'; readonly relation: RelationName; readonly before: RowImage }
  | { readonly op: 'truncate'; readonly relation: RelationName }

/** `schema.table`, as PostgreSQL names it. */
export type RelationName = string

/** `shard@LSN` for an unattributed commit, else the transaction id: what a person names a transaction by. */
export function nameOf(transaction: RedoTransaction, formatLsn: (lsn: Lsn) => string): string {
  const { identity } = transaction
  return identity.kind === 'home' || identity.kind === 'branch'
    ? identity.transactionId
    : `${transaction.shard}@${formatLsn(transaction.commitLsn)}`
}
