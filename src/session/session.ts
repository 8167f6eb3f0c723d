import { assert, present } from '../base/assert.ts'
import type { Brand } from '../base/brand.ts'
import type { Epoch, HistoryId, ShardName, TransactionId } from '../directory/topology.ts'
import type { Hlc } from '../hlc/hlc.ts'
import { maxHlc } from '../hlc/hlc.ts'
import type { Lsn } from '../postgres/lsn.ts'
import { lsnZero, maxLsn } from '../postgres/lsn.ts'
import type { Frontier, HistoryFrontier } from './frontier.ts'
import { joinHistories, joinSameHistory, laterOf, pendingMax, transactionIdsOf } from './frontier.ts'

/**
 * A session is a promise to one client: the next screen shows what the last one showed, and what was written since.
 * The client carries the promise as a token, and any gateway can keep it with any node, because the node that answers
 * must prove, inside the snapshot that answers, that it contains the frontier in the token.
 *
 * The simple ways fail, each in a way that was reproduced:
 *
 * - *Wait for a lag figure.* It was measured before the read and says nothing about the snapshot that answers.
 * - *Compare the replay position inside the read.* In REPEATABLE READ the snapshot is taken by the first statement; a
 *   position read after it has moved on, and vouches for commits that the snapshot does not contain (HZ-T1).
 * - *Compare timestamps.* After a failover the closed timestamp of the new history passes the timestamp of a write
 *   that was lost (HZ-T3). Which history it is comes first.
 * - *Ask for the last transaction id alone.* A branch prepared earlier may settle later (HZ-T5), and what the session
 *   has read may have been committed after its own last commit.
 * - *Trust the primary.* It does not show a branch before that is settled (HZ-X3), nor a commit that waits for a
 *   synchronous follower although another follower shows it already (HZ-S4).
 *
 * Owns: the frontier and its join (`frontier.ts`), its signed form (`token.ts`), the decision over the evidence of a
 * node (`proof.ts`, `fork-point.ts`), and here the steps by which a session moves on. Does not own: the SQL that
 * collects evidence, waiting and rerouting (`reading/`), and settling branches (`transaction/`). Pure: it talks to
 * nobody, and `now` is an argument. The protocol around it is docs/protocols/visibility.md.
 *
 *   S1   A token counts only when it is authentic, of this fleet and, where bound, of this tenant and credential, not
 *        expired and not from the future.
 *   S2   The join is commutative, associative and idempotent; what proves the join proves both sides.
 *   S3   A session only moves forward: what proves the frontier after a step proves everything seen before it.
 *   S4   History first: no position and no timestamp is compared before the history is known to the node (HZ-T3).
 *   S5   The placement row is in the snapshot that answers, at the version that was routed by (HZ-T6).
 *   S6   A position counts as reached only when it was read before the snapshot (HZ-T1). It covers commits, never
 *        branches (HZ-X4).
 *   S7   The last ids stand for the position only while the session has not read past them.
 *   S8   Every pending branch is visible, or lies at or below the closed timestamp of the same history (HZ-T5).
 *   S9   A primary shows what a follower has shown only up to its closed timestamp (HZ-S4).
 *   S10  `causal` is the closed timestamp at or above the frontier, on every shard, also on those that the session has
 *        never touched (HZ-T4).
 *   S11  A demand is proven or its loss is told. None is dropped in silence, not for size and not by a join.
 *   S12  The verdict is a total function of demand and evidence.
 *
 * HAZARD: S3 over positions holds when commits that readers can see are flushed. A break-glass write with
 * `synchronous_commit = off` is visible on the primary before that, and no position covers it yet.
 *
 * HAZARD: a new history writes its row first, before anything is redone on it. Were the row last, a later restore to a
 * point in between would have the grandparent's name and the parent's positions.
 */

/**
 * How long a token is good when the configuration does not say. Below the time for which settled branches are kept,
 * because a branch of an older history is proven by its row alone.
 */
export const tokenLifetimeMsDefault = 24 * 60 * 60 * 1000

/** Read in a statement that ended before the one that took the snapshot began. The only kind that proves (S6). */
export type LsnBeforeSnapshot = Brand<Lsn, 'LsnBeforeSnapshot'>
/** Read by the statement that took the snapshot or by a later one: an upper bound of what the snapshot shows. */
export type LsnAfterSnapshot = Brand<Lsn, 'LsnAfterSnapshot'>

/** Where a position stands in the flight that reads: indexes of the statement that read it and of the snapshot's. */
export interface PositionInFlight {
  readonly lsn: Lsn
  readonly readAt: number
  readonly snapshotAt: number
}

/** HZ-T1: a position read by the statement that took the snapshot, or by a later one, proves nothing. */
export function lsnBeforeSnapshot({ lsn, readAt, snapshotAt }: PositionInFlight): LsnBeforeSnapshot {
  assert(readAt < snapshotAt, `statement ${readAt} does not come before the snapshot of statement ${snapshotAt}`)
  return lsn as LsnBeforeSnapshot
}

/**
 * A position read before the snapshot bounds nothing that the snapshot shows. The statement that takes the snapshot may
 * read it: PostgreSQL takes the snapshot first and runs its functions then.
 */
export function lsnAfterSnapshot({ lsn, readAt, snapshotAt }: PositionInFlight): LsnAfterSnapshot {
  assert(readAt >= snapshotAt, `statement ${readAt} comes before the snapshot of statement ${snapshotAt}`)
  return lsn as LsnAfterSnapshot
}

/** A shard as a step of the session met it. */
export interface ShardMet {
  readonly shard: ShardName
  readonly historyId: HistoryId
  /** As a frontier has it. */
  readonly epoch: Epoch
  readonly placementVersion: number
}

export interface CommitStep extends ShardMet {
  readonly transactionId: TransactionId
  readonly commitTimestamp: Hlc
  /** The flush position read after the acknowledged COMMIT; one read before it passes while the row is invisible (HZ-X4). */
  readonly flushedAfterCommit: Lsn
}

/** An own commit on a shard: at home, or on a participant whose branch was settled before the answer. */
export function advanceByCommit(before: Frontier, step: CommitStep): Frontier {
  return advance(before, step, step.commitTimestamp, (known) => ({
    ...metHistory(step),
    position: maxLsn(known?.position ?? lsnZero, step.flushedAfterCommit),
    // The transaction began after everything in `before`, so its commit follows all of it in the log.
    lastTransactionIds: [step.transactionId],
    idsSuffice: true,
    seenTimestamp: known?.seenTimestamp,
    pending: (known?.pending ?? []).filter((branch) => branch.transactionId !== step.transactionId),
    pendingForgotten: known?.pendingForgotten ?? false,
  }))
}

export interface BranchStep extends ShardMet {
  readonly transactionId: TransactionId
  readonly commitTimestamp: Hlc
  /** The flush position read after the acknowledged PREPARE. It says nothing about the branch, only what the branch may have read. */
  readonly flushedAfterPrepare: Lsn
}

/** An own branch on a participant, decided and not yet seen settled. Where `mustSettleFirst` says so, settle instead. */
export function advanceByBranch(before: Frontier, step: BranchStep): Frontier {
  return advance(before, step, step.commitTimestamp, (known) => {
    const branch: HistoryFrontier = {
      ...metHistory(step),
      position: step.flushedAfterPrepare,
      lastTransactionIds: [],
      idsSuffice: true,
      seenTimestamp: undefined,
      pending: [{ transactionId: step.transactionId, timestamp: step.commitTimestamp }],
      pendingForgotten: false,
    }
    return known === undefined ? branch : joinSameHistory(known, branch)
  })
}

/**
 * An own branch on a participant of which nobody knows whether this history has it. It cannot be named in it (HZ-T3), so the session is
 * told at its next read there, and whatever is decided there is settled before a transaction uses the shard (S11).
 */
export function advanceByUnknownBranch(before: Frontier, step: ShardMet & { readonly commitTimestamp: Hlc }): Frontier {
  const { shards, timestamp } = advance(before, step, step.commitTimestamp, (known) => {
    const branch: HistoryFrontier = {
      ...metHistory(step),
      position: lsnZero,
      lastTransactionIds: [],
      idsSuffice: true,
      seenTimestamp: undefined,
      pending: [],
      pendingForgotten: true,
    }
    return known === undefined ? branch : joinSameHistory(known, branch)
  })
  const shard = present(shards.get(step.shard), 'the shard of the step')
  return { timestamp, shards: new Map(shards).set(step.shard, { ...shard, historiesForgotten: true }) }
}

/** Whether one more pending branch on this shard has no room in the token: the write path then waits until it is settled. */
export function mustSettleFirst(frontier: Frontier, shard: ShardName): boolean {
  const histories = frontier.shards.get(shard)?.histories ?? []
  return histories.some((history) => history.pending.length >= pendingMax)
}

/**
 * Makes room for a branch: those before it on this shard were settled, and seen so, before it was opened. Its position
 * covers their commits (S6); no id does any more.
 */
export function forgetSettled(before: Frontier, shard: ShardName): Frontier {
  const known = before.shards.get(shard)
  if (known === undefined) return before
  const histories = known.histories.map((history) => ({ ...history, idsSuffice: false, pending: [] }))
  return { ...before, shards: new Map(before.shards).set(shard, { ...known, histories }) }
}

/** What a transaction read on a primary without writing there; everything it saw was flushed at the position. */
export function advanceByReading(before: Frontier, step: ShardMet & { readonly position: Lsn }): Frontier {
  return advance(before, step, before.timestamp, (known) => {
    const reading: HistoryFrontier = {
      ...metHistory(step),
      position: step.position,
      lastTransactionIds: [],
      // No id of the session stands for what others wrote.
      idsSuffice: false,
      seenTimestamp: undefined,
      pending: [],
      pendingForgotten: false,
    }
    return known === undefined ? reading : joinSameHistory(known, reading)
  })
}

export interface ReadStep extends ShardMet {
  readonly isPrimary: boolean
  /**
   * On a primary the flush position. On a follower the greater of its receive and its replay position: a commit is
   * visible a moment before the replay position says so, but never before it was received.
   */
  readonly position: LsnAfterSnapshot
  /** The closed timestamp in the snapshot. */
  readonly closedTimestamp: Hlc
  /** The greatest commit timestamp in the snapshot, or an upper bound of it. */
  readonly greatestTimestamp: Hlc
}

/**
 * A read whose snapshot has proven `before` (verdict `proven`), or that carried no demand on this shard: what was
 * pending or of an older history is now in the past of the snapshot, and goes.
 */
export function advanceByRead(before: Frontier, step: ReadStep): Frontier {
  const all = before.shards.get(step.shard)?.histories ?? []
  let own: TransactionId | undefined
  let position = step.position as Lsn
  let seen: Hlc | undefined = step.greatestTimestamp
  for (const history of all) {
    for (const id of transactionIdsOf(history)) if (own === undefined || id > own) own = id
    if (history.historyId !== step.historyId) continue
    position = maxLsn(position, history.position)
    seen = laterOf(seen, history.seenTimestamp)
  }
  const history: HistoryFrontier = {
    ...metHistory(step),
    position,
    // One name is enough to tell a loss by: the position, which no id stands for from here on, covers the others.
    lastTransactionIds: own === undefined ? [] : [own],
    idsSuffice: false,
    // A primary shows nothing that it will not show again.
    seenTimestamp: step.isPrimary || seen === undefined || seen <= step.closedTimestamp ? undefined : seen,
    pending: [],
    pendingForgotten: false,
  }
  const shards = new Map(before.shards)
  shards.set(step.shard, {
    placementVersion: Math.max(step.placementVersion, before.shards.get(step.shard)?.placementVersion ?? 0),
    histories: [history],
    historiesForgotten: false,
  })
  return { timestamp: maxHlc(before.timestamp, step.greatestTimestamp), shards }
}

/** The frontier with the entry of the step's history replaced by what the step makes of it; other histories stay. */
function advance(
  before: Frontier,
  step: ShardMet,
  timestamp: Hlc,
  next: (known: HistoryFrontier | undefined) => HistoryFrontier,
): Frontier {
  const shard = before.shards.get(step.shard)
  const all = shard?.histories ?? []
  const known = all
    .filter((history) => history.historyId === step.historyId)
    .reduce<HistoryFrontier | undefined>((a, b) => (a === undefined ? b : joinSameHistory(a, b)), undefined)
  const joined = joinHistories([...all.filter((history) => history.historyId !== step.historyId), next(known)])
  const shards = new Map(before.shards)
  shards.set(step.shard, {
    placementVersion: Math.max(step.placementVersion, shard?.placementVersion ?? 0),
    histories: joined.histories,
    historiesForgotten: (shard?.historiesForgotten ?? false) || joined.forgotten,
  })
  return { timestamp: maxHlc(before.timestamp, timestamp), shards }
}

function metHistory(step: ShardMet): Pick<HistoryFrontier, 'historyId' | 'epoch'> {
  return { historyId: step.historyId, epoch: step.epoch }
}
