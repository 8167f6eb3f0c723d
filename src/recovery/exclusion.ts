import type { RedoTransaction, RelationName } from '../archive/redo-transaction.ts'
import { nameOf } from '../archive/redo-transaction.ts'
import { HoldfastError } from '../base/errors.ts'
import type { ShardName, TransactionId } from '../directory/topology.ts'
import type { Hlc } from '../hlc/hlc.ts'
import type { Conflict } from './divergence.ts'
import { Divergence } from './divergence.ts'
import type { ShardHistory, TransactionName } from './history.ts'
import { lowestOf, readSince } from './history.ts'
import type { Bound, Position } from './position.ts'
import { comparePositions, isWithin, positionOf } from './position.ts'
import type { RowKey, Shapes } from './row-key.ts'
import { isApplicationRelation, touchedKeys } from './row-key.ts'
import { findPosition } from './target.ts'

/**
 * What must go when some transactions are left out of history.
 *
 * A transaction that changed a row after an excluded one, or that refers to a row which an excluded one made, cannot be
 * replayed as it was. It is dragged along: all of it, on every shard that it wrote. That may drag others, so the set is
 * closed to a fixpoint (R5). Nothing is decided by it: what is dragged is shown, and a person names it as excluded
 * too, or finds another way.
 *
 * HAZARD: a transaction that only read what an excluded one wrote leaves no trace of that in what it wrote (HZ-R4).
 * Later transactions on the same keys are therefore listed for review. So are later ones on a table that was emptied
 * with TRUNCATE, since the stream does not say which rows that removed.
 */
export interface Exclusion {
  /** What was asked for, in the order of history. */
  readonly asked: readonly CommitSummary[]
  /** What cannot stay without it, in the order of history, each with the first reason found. */
  readonly dragged: readonly (CommitSummary & { readonly shard: ShardName; readonly because: Conflict })[]
  /** Later transactions that stay and that touch keys which an excluded one touched. */
  readonly review: readonly (CommitSummary & { readonly touches: readonly RowKey[] })[]
  /** The names of all that is left out, with their timestamps. */
  readonly closure: ReadonlyMap<TransactionName, Hlc>
}

type Closure = Exclusion['closure']

/** A commit as a person sees it. */
export interface CommitSummary {
  readonly name: TransactionName
  readonly transactionId: TransactionId | null
  /** Of an unattributed commit the highest stamp before it. */
  readonly timestamp: Hlc
  readonly tenant: string | null
  readonly action: string | null
  readonly subject: string | null
  readonly actor: string | null
  readonly shards: readonly ShardName[]
}

/**
 * Closes a set of transactions over what depends on them, up to the bound. Throws `unknown_transaction`, or
 * `restore_unreachable` for one that lies behind the bound.
 */
export async function closeExclusion(
  histories: readonly ShardHistory[],
  shapesOf: ReadonlyMap<ShardName, Shapes>,
  names: readonly TransactionName[],
  bound: Bound,
): Promise<Exclusion> {
  const asked = new Set(names)
  const closure = new Map([...asked].map((name) => [name, requireWithin(name, histories, bound).timestamp]))
  const reasons = new Map<TransactionName, { shard: ShardName; because: Conflict }>()
  for (let size = -1; size !== closure.size; ) {
    size = closure.size
    for (const history of histories) {
      const found = await findConflicts(history, shapesIn(shapesOf, history.shard), closure, bound)
      for (const [name, { timestamp, because }] of found) {
        closure.set(name, timestamp)
        reasons.set(name, { shard: history.shard, because })
      }
    }
  }
  const touches = await findTouches(histories, shapesOf, closure, bound)
  const summaries = await summarise(histories, new Map([...closure, ...timestampsOf(touches)]))
  const pick = (wanted: Iterable<TransactionName>) =>
    [...wanted].flatMap((name) => summaries.get(name) ?? []).sort((a, b) => comparePositions(a.position, b.position))
  return {
    asked: pick(asked).map(({ summary }) => summary),
    dragged: pick(reasons.keys()).flatMap(({ summary }) => {
      const reason = reasons.get(summary.name)
      return reason === undefined ? [] : [{ ...summary, ...reason }]
    }),
    review: pick(touches.keys()).map(({ summary }) => ({
      ...summary,
      touches: [...(touches.get(summary.name)?.keys ?? [])].sort(),
    })),
    closure,
  }
}

/** Throws `redo_conflict` while anything was dragged that nobody asked for. */
export function requireAccepted({ dragged }: Exclusion): void {
  if (dragged.length === 0) return
  throw new HoldfastError(
    'redo_conflict',
    `${dragged.length} later transactions depend on what is left out: ${dragged.map(({ name }) => name).join(', ')}`,
    {
      hint: 'leave them out too by naming them in `without`, or choose another way',
      detail: { dragged: dragged.map(({ name, because }) => ({ name, because: describeConflict(because) })) },
    },
  )
}

/** One line for a person. Keys are shown: whoever may restore may see them. */
export function describeConflict({ kind, relation, key, of }: Conflict): string {
  const others = of.join(', ')
  switch (kind) {
    case 'row':
      return `changes ${key}, which ${others} changed before`
    case 'parent':
      return `refers to ${key}, which would not be there without ${others}`
    case 'child':
      return `removes a row that ${key} would still refer to without ${others}`
    case 'truncate':
      return `empties ${relation}, where ${key} would be left without ${others}`
  }
}

/** One walk over a shard: what cannot be replayed without the excluded. What is found counts as excluded at once. */
async function findConflicts(
  history: ShardHistory,
  shapes: Shapes,
  closure: Closure,
  bound: Bound,
): Promise<Map<TransactionName, { timestamp: Hlc; because: Conflict }>> {
  const found = new Map<TransactionName, { timestamp: Hlc; because: Conflict }>()
  const divergence = new Divergence(shapes)
  for await (const transaction of readSince(history, lowestOf(closure.values()))) {
    const name = nameOf(transaction)
    if (!isReplayable(transaction, bound) || (divergence.isEmpty && !closure.has(name))) continue
    const changes = transaction.changes.filter(({ relation }) => isApplicationRelation(relation))
    const because = closure.has(name) ? null : firstOf(changes, (change) => divergence.conflictOf(change))
    if (because !== null) found.set(name, { timestamp: positionOf(transaction).timestamp, because })
    if (because !== null || closure.has(name)) for (const change of changes) divergence.leaveOut(change, name)
  }
  return found
}

/** The platform's own commits follow the transactions they serve; they are never excluded by themselves. */
function isReplayable(transaction: RedoTransaction, bound: Bound): boolean {
  return transaction.identity.kind !== 'platform' && isWithin(bound, positionOf(transaction))
}

function firstOf<T, R>(items: readonly T[], find: (item: T) => R | null): R | null {
  for (const item of items) {
    const found = find(item)
    if (found !== null) return found
  }
  return null
}

function requireWithin(name: TransactionName, histories: readonly ShardHistory[], bound: Bound): Position {
  const found = findPosition(name, histories)
  if (isWithin(bound, found)) return found
  throw new HoldfastError('restore_unreachable', `transaction ${name} lies behind what all archives hold`, {
    hint: 'try again when the archives have caught up',
    detail: { transaction: name },
  })
}

type Touches = Map<TransactionName, { readonly timestamp: Hlc; readonly keys: Set<RowKey> }>

async function findTouches(
  histories: readonly ShardHistory[],
  shapesOf: ReadonlyMap<ShardName, Shapes>,
  closure: Closure,
  bound: Bound,
): Promise<Touches> {
  const touches: Touches = new Map()
  for (const history of histories) {
    const shapes = shapesIn(shapesOf, history.shard)
    const keys = new Set<RowKey>()
    const emptied = new Set<RelationName>()
    for await (const transaction of readSince(history, lowestOf(closure.values()))) {
      const name = nameOf(transaction)
      if (!isReplayable(transaction, bound)) continue
      const isExcluded = closure.has(name)
      if (!isExcluded && keys.size === 0 && emptied.size === 0) continue
      for (const change of transaction.changes) {
        if (!isApplicationRelation(change.relation)) continue
        if (isExcluded) {
          for (const key of touchedKeys(change, shapes)) keys.add(key)
          if (change.op === 'truncate') emptied.add(change.relation)
          continue
        }
        const common = touchedKeys(change, shapes).filter((key) => keys.has(key) || emptied.has(change.relation))
        if (common.length === 0) continue
        const known = touches.get(name) ?? { timestamp: positionOf(transaction).timestamp, keys: new Set() }
        for (const key of common) known.keys.add(key)
        touches.set(name, known)
      }
    }
  }
  return touches
}

function timestampsOf(touches: Touches): [TransactionName, Hlc][] {
  return [...touches].map(([name, { timestamp }]) => [name, timestamp])
}

type Summaries = ReadonlyMap<TransactionName, { readonly summary: CommitSummary; readonly position: Position }>

/** Of these alone, each with all of its shards. */
async function summarise(
  histories: readonly ShardHistory[],
  wanted: ReadonlyMap<TransactionName, Hlc>,
): Promise<Summaries> {
  const found = new Map<TransactionName, { summary: CommitSummary; position: Position }>()
  for (const history of histories) {
    for await (const transaction of readSince(history, lowestOf(wanted.values()))) {
      const name = nameOf(transaction)
      if (transaction.identity.kind === 'platform' || !wanted.has(name)) continue
      const shards = [...(found.get(name)?.summary.shards ?? []), history.shard]
      found.set(name, { summary: summaryOf(transaction, shards), position: positionOf(transaction) })
    }
  }
  return found
}

function summaryOf(transaction: RedoTransaction, shards: readonly ShardName[]): CommitSummary {
  const { identity } = transaction
  const { timestamp } = positionOf(transaction)
  const name = nameOf(transaction)
  if (identity.kind === 'home' || identity.kind === 'branch') {
    const { transactionId, tenant, action, subject, actor } = identity
    return { name, transactionId, timestamp, tenant, action, subject, actor, shards }
  }
  return { name, transactionId: null, timestamp, tenant: null, action: null, subject: null, actor: null, shards }
}

function shapesIn(shapesOf: ReadonlyMap<ShardName, Shapes>, shard: ShardName): Shapes {
  return shapesOf.get(shard) ?? new Map()
}
