import { present } from '../base/assert.ts'
import type { ShardName, TenantName, TransactionId } from '../directory/topology.ts'
import type { Hlc } from '../hlc/hlc.ts'
import { hlcZero, maxHlc, toHlc } from '../hlc/hlc.ts'
import type { RedoIdentity, RowChange, RowImage } from './redo-transaction.ts'
import { isPlatformRelation } from './redo-transaction.ts'
import { parseTextArray } from './text-array.ts'

/**
 * Whose a transaction is: read from the rows that the platform itself writes beside the application's, never guessed
 * from what the rows say. A home transaction brings its row of `commit_log`. A branch brings its row of `branch`, and its
 * timestamp came earlier, in the transaction that recorded the decision.
 */
export interface Attribution {
  /** The highest commit timestamp of the transactions so far. */
  readonly highestStamp: Hlc
  /** Commit timestamps of branches that were decided and are not settled yet. */
  readonly decided: ReadonlyMap<TransactionId, Hlc>
}

export const nothingAttributed: Attribution = { highestStamp: hlcZero, decided: new Map() }

/** `decision_unknown`: the branch was settled, and the stream did not bring its decision. */
export type Attributed = RedoIdentity | { readonly kind: 'decision_unknown'; readonly transactionId: TransactionId }

export function attribute(changes: readonly RowChange[], before: Attribution): Attributed {
  const homes = insertsInto('holdfast.commit_log', changes)
  const branches = insertsInto('holdfast.branch', changes)
  const after = before.highestStamp
  const [own] = homes.length + branches.length === 1 ? [...homes, ...branches] : []
  if (own === undefined) {
    const isPlatform =
      homes.length === 0 && branches.length === 0 && changes.every(({ relation }) => isPlatformRelation(relation))
    return { kind: isPlatform ? 'platform' : 'unattributed', after }
  }
  const transactionId = text(own, 'transaction_id') as TransactionId
  const common = {
    transactionId,
    tenant: text(own, 'tenant') as TenantName,
    action: text(own, 'action'),
    subject: text(own, 'subject'),
    actor: text(own, 'actor'),
    participants: parseTextArray(text(own, 'participants')) as ShardName[],
  }
  if (homes.length === 1) return { kind: 'home', ...common, commitTimestamp: stamp(own) }
  const commitTimestamp = before.decided.get(transactionId) ?? decisionsIn(changes).get(transactionId)
  if (commitTimestamp === undefined) return { kind: 'decision_unknown', transactionId }
  return { kind: 'branch', ...common, home: text(own, 'home') as ShardName, commitTimestamp }
}

/** What is known once the transaction is part of the stream. */
export function advance(before: Attribution, changes: readonly RowChange[], identity: RedoIdentity): Attribution {
  const isStamped = identity.kind === 'home' || identity.kind === 'branch'
  const highestStamp = isStamped ? maxHlc(before.highestStamp, identity.commitTimestamp) : before.highestStamp
  const learnt = decisionsIn(changes)
  const dropped = changes.flatMap((change) =>
    change.op === 'delete' && change.relation === 'holdfast.decision' ? [text(change.before, 'transaction_id')] : [],
  )
  if (learnt.size === 0 && dropped.length === 0 && identity.kind !== 'branch') return { ...before, highestStamp }
  const decided = new Map([...before.decided, ...learnt])
  for (const id of dropped) decided.delete(id as TransactionId)
  if (identity.kind === 'branch') decided.delete(identity.transactionId)
  return { highestStamp, decided }
}

function decisionsIn(changes: readonly RowChange[]): Map<TransactionId, Hlc> {
  const rows = insertsInto('holdfast.decision', changes).filter((row) => row['outcome'] === 'COMMITTED')
  return new Map(rows.map((row) => [text(row, 'transaction_id') as TransactionId, stamp(row)]))
}

function insertsInto(relation: string, changes: readonly RowChange[]): RowImage[] {
  return changes.flatMap((change) => (change.op === 'insert' && change.relation === relation ? [change.after] : []))
}

function stamp(row: RowImage): Hlc {
  return toHlc(BigInt(text(row, 'commit_timestamp')))
}

function text(row: RowImage, column: string): string {
  return present(row[column], `a row of the platform has ${column}`)
}
