import type { RedoTransaction, RelationShape, RowChange, RowImage } from '../../src/archive/redo-transaction.ts'
import { nameOf } from '../../src/archive/redo-transaction.ts'
import type { ShardName, TenantName, TransactionId } from '../../src/directory/topology.ts'
import type { Hlc } from '../../src/hlc/hlc.ts'
import type { Lsn } from '../../src/postgres/lsn.ts'
import type { ShardHistory } from '../../src/recovery/history.ts'
import { Surveyor } from '../../src/recovery/history.ts'

/** Redo streams written out by hand: the smallest values that the pure parts of recovery read. */

export const payroll = 'eu-west/payroll' as ShardName
export const treasury = 'us-east/treasury' as ShardName

export function transactionId(number: number): TransactionId {
  return `00000000-0000-7000-8000-${String(number).padStart(12, '0')}` as TransactionId
}

export function home(number: number, timestamp: bigint, changes: RowChange[], participants: ShardName[] = []) {
  return { identity: { kind: 'home', ...attribution(number, timestamp), participants } as const, changes }
}

export function branch(number: number, timestamp: bigint, changes: RowChange[]) {
  const identity = {
    kind: 'branch',
    ...attribution(number, timestamp),
    home: payroll,
    participants: [treasury],
  } as const
  return { identity, changes }
}

export function unattributed(after: bigint, changes: RowChange[]) {
  return { identity: { kind: 'unattributed', after: after as Hlc } as const, changes }
}

export function decision(number: number, timestamp: bigint | null, after: bigint) {
  const row = {
    transaction_id: transactionId(number),
    outcome: timestamp === null ? 'ABORTED' : 'COMMITTED',
    commit_timestamp: timestamp?.toString() ?? null,
  }
  return {
    identity: { kind: 'platform', after: after as Hlc } as const,
    changes: [insert('holdfast.decision', row)],
  }
}

export function insert(relation: string, after: RowImage): RowChange {
  return { op: 'insert', relation, after }
}

export function update(relation: string, before: RowImage, after: RowImage): RowChange {
  return { op: 'update', relation, before, after: { ...before, ...after } }
}

export function remove(relation: string, before: RowImage): RowChange {
  return { op: 'delete', relation, before }
}

/** A history whose commits lie at 100, 110, 120, ... in the log; closed through the timestamp. */
export function history(
  shard: ShardName,
  commits: readonly Pick<RedoTransaction, 'identity' | 'changes'>[],
  closed = 1_000n,
): WrittenHistory {
  const transactions = commits.map((commit, index): RedoTransaction => {
    const commitLsn = BigInt(100 + index * 10) as Lsn
    const endLsn = (commitLsn + 8n) as Lsn
    return { shard, commitLsn, endLsn, xid: index, committedAtMs: 0, ...commit }
  })
  const lsn = BigInt(100 + commits.length * 10) as Lsn
  return historyOf(transactions, {
    shard,
    redo: { lsn, closedTimestamp: closed as Hlc, from: 0n as Lsn, clockAtFrom: null },
  })
}

/** A history whose commits are at hand. */
export interface WrittenHistory extends ShardHistory {
  readonly transactions: readonly RedoTransaction[]
}

const commitsBetweenMilestones = 2

/** One that was asked about all of them. */
export function historyOf(
  transactions: readonly RedoTransaction[],
  place: Pick<ShardHistory, 'shard' | 'redo'>,
): WrittenHistory {
  const surveyor = new Surveyor(transactions.map(nameOf), commitsBetweenMilestones)
  for (const transaction of transactions) surveyor.pass(transaction)
  const read = async function* (from = 0n as Lsn) {
    for (const transaction of transactions) if (transaction.endLsn > from) yield transaction
  }
  return { ...place, transactions, survey: surveyor.conclude(), read }
}

export async function collected<T>(items: AsyncIterable<T>): Promise<T[]> {
  const all: T[] = []
  for await (const item of items) all.push(item)
  return all
}

export function shape(
  table: string,
  columns: readonly string[],
  foreignKeys: RelationShape['foreignKeys'] = [],
  primaryKey: readonly string[] = ['id'],
): RelationShape {
  return {
    schema: 'public',
    table,
    columns: columns.map((name) => ({ name, type: 'text', sequence: null })),
    replicaIdentity: 'full',
    primaryKey,
    foreignKeys,
  }
}

function attribution(number: number, timestamp: bigint) {
  return {
    transactionId: transactionId(number),
    commitTimestamp: timestamp as Hlc,
    tenant: 'globex-eu' as TenantName,
    action: 'payroll.approve',
    subject: `run-${number}`,
    actor: 'manager@globex.example',
  }
}
