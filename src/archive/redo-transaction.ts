import type { ShardName, TenantName, TransactionId } from '../directory/topology.ts'
import type { Hlc } from '../hlc/hlc.ts'
import type { Lsn } from '../postgres/lsn.ts'
import { formatLsn } from '../postgres/lsn.ts'

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
  /** Only tables of the platform changed: decisions, records, directory, migrations. Follows its transaction, never excluded by itself. */
  | { readonly kind: 'platform'; readonly after: Hlc }
  /**
   * Application rows changed and no opening tells by whom: break-glass. Named `shard@LSN`; its place is after the
   * highest stamp before it. A commit with the rows of several transactions is one too: it belongs to none of them.
   */
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

/**
 * With replica identity FULL, which every governed table and every published table of `holdfast` has, images are
 * whole. Otherwise `before` has the key alone, and columns whose stored value did not change may be absent from `after`.
 */
export type RowChange =
  | { readonly op: 'insert'; readonly relation: RelationName; readonly after: RowImage }
  | { readonly op: 'update'; readonly relation: RelationName; readonly before: RowImage; readonly after: RowImage }
  | { readonly op: 'delete'; readonly relation: RelationName; readonly before: RowImage }
  | { readonly op: 'truncate'; readonly relation: RelationName }

/** `schema.table`, neither part quoted. */
export type RelationName = string

export function relationName(shape: Pick<RelationShape, 'schema' | 'table'>): RelationName {
  return `${shape.schema}.${shape.table}`
}

/** The migrations that ran, each with a row in the transaction that it ran in. */
export const migrationRelation: RelationName = 'public.holdfast_migration'

/** What the platform keeps beside the rows of the application. */
export function isPlatformRelation(relation: RelationName): boolean {
  return relation.startsWith('holdfast.') || relation === migrationRelation
}

/** What a relation looked like when its rows were written to the stream. */
export interface RelationShape {
  readonly schema: string
  readonly table: string
  /** In the order of the table. Generated columns are not in the stream. */
  readonly columns: readonly RelationColumn[]
  readonly replicaIdentity: 'full' | 'key' | 'nothing'
  /** Empty when there is none. */
  readonly primaryKey: readonly string[]
  readonly foreignKeys: readonly ForeignKey[]
}

export interface RelationColumn {
  readonly name: string
  /** As in a cast: `bigint`, `text[]`, `public.mood`. */
  readonly type: string
  /** The sequence, `schema.name`, that an identity or serial column draws from. Decoding does not carry its moves (HZ-R1). */
  readonly sequence: string | null
}

export interface ForeignKey {
  readonly name: string
  readonly columns: readonly string[]
  readonly references: RelationName
  readonly referencedColumns: readonly string[]
}

/** How far the stream reaches. */
export interface RedoThrough {
  /** Every transaction whose commit record ends at or before it is in the archive, on the side of `from`. */
  readonly lsn: Lsn
  /** Every transaction of this shard at or below it is in the archive. */
  readonly closedTimestamp: Hlc
  /** Since where without a hole: transactions that ended at or before it may be missing. */
  readonly from: Lsn
  /** None of those has a timestamp above it; null where an earlier version wrote the stream. */
  readonly clockAtFrom: Hlc | null
}

/** The id of a transaction that has a stamp. */
export function stampedId(identity: RedoIdentity): TransactionId | null {
  return identity.kind === 'home' || identity.kind === 'branch' ? identity.transactionId : null
}

/** The transaction id, or `shard@LSN` when it has none: what a person names a transaction by. */
export function nameOf({ identity, shard, commitLsn }: RedoTransaction): string {
  return stampedId(identity) ?? `${shard}@${formatLsn(commitLsn)}`
}
