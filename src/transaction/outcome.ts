import { present, unreachable } from '../base/assert.ts'
import { HoldfastError } from '../base/errors.ts'
import type { Epoch, NodeId, ShardName, TransactionId } from '../directory/topology.ts'
import type { Hlc } from '../hlc/hlc.ts'
import type { Lsn } from '../postgres/lsn.ts'
import type { CommitEvent } from './commit-protocol.ts'
import type { TransactionEnvironment } from './environment.ts'
import { primaryOf, shardOf } from './environment.ts'
import type { CommitRow, TransactionRecord } from './decision-store.ts'
import * as decisions from './decision-store.ts'
import * as store from './transaction-store.ts'

/**
 * The true outcome of a transaction whose answer was lost.
 *
 *   O1  Committed: its row of the commit log was read at home, and a barrier passed there afterwards.
 *   O2  Aborted, global: the record says ABORTED behind a barrier. Asking writes it when there is none; the primary key
 *       decides against a coordinator on its way.
 *   O3  Aborted, local: the row is not there, and it cannot come any more. Either the backend that had the commit was
 *       gone *before* we looked, or another server has become the primary since, at a later epoch, and a barrier passed
 *       there behind the look. On the same server a later epoch proves nothing: a stamp compares epochs in its snapshot
 *       (HZ-F1), and one that was drawn before the fence may commit behind it.
 *   O4  Everything else is unknown. Time passing is no evidence.
 */
export type Told =
  | { readonly kind: 'committed'; readonly timestamp: Hlc; readonly position: Lsn }
  | { readonly kind: 'aborted'; readonly why: string }
  | { readonly kind: 'nothing'; readonly cause: unknown }

export interface OutcomeQuestion {
  readonly transactionId: TransactionId
  readonly home: ShardName
  /** The primary that the transaction was opened on, and its epoch then. */
  readonly node: NodeId
  readonly epoch: Epoch
  /** Empty for a local transaction. */
  readonly participants: readonly ShardName[]
  /** The backend that was sent the commit; undefined when nothing was ever sent to one. */
  readonly serverProcessId: number | undefined
}

const pauseMsMin = 20
const pauseMsMax = 500

/** Asks until somebody can tell, at most `outcomeWithinMs`. Never rejects. */
export async function askOutcome(environment: TransactionEnvironment, question: OutcomeQuestion): Promise<Told> {
  const { clock, limits, topology, metrics } = environment
  const deadline = clock.monotonicMs() + limits.outcomeWithinMs
  metrics.count('outcome_asked_total', { shard: question.home })
  let cause: unknown
  for (let pauseMs = pauseMsMin; ; pauseMs = Math.min(pauseMs * 2, pauseMsMax)) {
    try {
      const told = await askOnce(environment, question)
      if (told !== undefined) return told
    } catch (error) {
      cause = error
      await topology.refresh().catch(() => undefined)
    }
    if (clock.monotonicMs() + pauseMs > deadline) return { kind: 'nothing', cause }
    await clock.sleep(pauseMs)
  }
}

async function askOnce(environment: TransactionEnvironment, question: OutcomeQuestion): Promise<Told | undefined> {
  const { pools, limits, barriers } = environment
  const { transactionId, home, participants, serverProcessId } = question
  const primary = primaryOf(environment, home)
  const shard = shardOf(environment, home)
  // In this order: a backend that ends between the two has its commit found by the second.
  const [backend, commit] = await pools.flight(
    primary.target,
    [decisions.selectBackend(serverProcessId ?? 0), decisions.selectCommit(transactionId)],
    limits.serviceWithinMs,
  )
  const row = decisions.readCommit(present(commit, 'the outcome of the commit log'))
  if (row !== undefined) {
    return { kind: 'committed', timestamp: row.commitTimestamp, position: await barriers.pass(home, primary.id) }
  }
  if (participants.length > 0) return askRecord(environment, question, shard.epoch)
  if (serverProcessId === undefined) return { kind: 'aborted', why: 'nothing of it was ever sent' }
  if (primary.id === question.node) {
    const mayStillCommit = decisions.readAnswer(present(backend, 'whether the backend lives'))
    return mayStillCommit ? undefined : { kind: 'aborted', why: 'its connection ended before it committed' }
  }
  // What is named and not open yet may have been read before it had all that it is promoted with.
  if (shard.state !== 'open' || shard.epoch <= question.epoch) return undefined
  await barriers.pass(home, primary.id)
  return { kind: 'aborted', why: `it is not in the history that ${home} has at epoch ${shard.epoch}` }
}

async function askRecord(
  environment: TransactionEnvironment,
  { transactionId, home, participants }: OutcomeQuestion,
  epoch: Epoch,
): Promise<Told> {
  const primary = primaryOf(environment, home)
  const [outcome] = await environment.pools.durableFlight(
    primary.target,
    [
      decisions.abortUnlessRecorded(
        transactionId,
        participants,
        epoch,
        'its coordinator lost the answer to the commit',
      ),
    ],
    environment.limits.serviceWithinMs,
  )
  const record = present(decisions.readRecord(present(outcome, 'the outcome of the record')), 'the record that stands')
  const position = await environment.barriers.pass(home, primary.id)
  return record.outcome === 'COMMITTED'
    ? { kind: 'committed', timestamp: record.commitTimestamp, position }
    : { kind: 'aborted', why: 'it was presumed aborted' }
}

/** What the coordinator makes of it. */
export function eventOfAnswer(
  told: Told,
  place: { readonly shard: string; readonly transactionId: string },
): CommitEvent {
  const about = `transaction ${place.transactionId}`
  switch (told.kind) {
    case 'committed':
      return { kind: 'told committed', timestamp: told.timestamp }
    case 'aborted': {
      const message = `${about}: the answer to the commit was lost, and ${told.why}`
      return {
        kind: 'told aborted',
        failure: new HoldfastError('transaction_aborted', message, { detail: { ...place } }),
      }
    }
    case 'nothing': {
      const options = {
        hint: 'ask again with the transaction id, or send the request again with the same idempotency key',
        detail: { ...place },
        cause: told.cause,
      }
      const failure = new HoldfastError('outcome_ambiguous', `nobody can tell the outcome of ${about}`, options)
      return { kind: 'told nothing', failure }
    }
    default:
      return unreachable(told)
  }
}

export type Outcome =
  | ({
      readonly outcome: 'committed'
      readonly home: ShardName
    } & CommitRow)
  | { readonly outcome: 'aborted'; readonly home: ShardName; readonly reason: string }
  /** It may still be running, be in doubt, or never have been sent; `reason` says what was seen. */
  | { readonly outcome: 'unknown'; readonly reason: string }

/**
 * The outcome of a transaction by its id alone, for whoever asks later: an answer once told does not change. Asks the
 * primary of every shard. Writes nothing, so a transaction that left no trace stays `unknown`.
 */
export async function lookUpOutcome(
  environment: TransactionEnvironment,
  transactionId: TransactionId,
): Promise<Outcome> {
  const shards = [...environment.topology.current().shards.keys()]
  const traces = await Promise.allSettled(shards.map((shard) => readTrace(environment, shard, transactionId)))
  const silent = shards.filter((_, index) => traces[index]?.status === 'rejected')
  for (const trace of traces) {
    if (trace.status === 'fulfilled' && trace.value !== undefined) {
      return tellTrace(environment, transactionId, trace.value)
    }
  }
  return {
    outcome: 'unknown',
    reason: silent.length > 0 ? `no answer from ${silent.join(', ')}` : 'no shard has a trace of it',
  }
}

interface Trace {
  readonly home: ShardName
  readonly readOn: NodeId
  readonly commit: CommitRow | undefined
  readonly record: TransactionRecord | undefined
  readonly refusal: string | undefined
}

async function readTrace(
  environment: TransactionEnvironment,
  home: ShardName,
  transactionId: TransactionId,
): Promise<Trace | undefined> {
  const primary = primaryOf(environment, home)
  // In this order: a record that is there has its commit found behind it, also one that commits meanwhile.
  const [record, commit, attempt] = await environment.pools.flight(
    primary.target,
    [
      decisions.selectRecord(transactionId),
      decisions.selectCommit(transactionId),
      decisions.selectAttempt(transactionId),
    ],
    environment.limits.serviceWithinMs,
  )
  const [refused] = store.rowsOf<{ code: string; reason: string }>(present(attempt, 'the outcome of the journal'))
  const trace: Trace = {
    home,
    readOn: primary.id,
    commit: decisions.readCommit(present(commit, 'the outcome of the commit log')),
    record: decisions.readRecord(present(record, 'the outcome of the record')),
    refusal: refused === undefined ? undefined : `${refused.code}: ${refused.reason}`,
  }
  return (trace.commit ?? trace.record ?? trace.refusal) ? trace : undefined
}

async function tellTrace(
  environment: TransactionEnvironment,
  transactionId: TransactionId,
  { home, readOn, commit, record, refusal }: Trace,
): Promise<Outcome> {
  await environment.barriers.pass(home, readOn)
  if (commit !== undefined) return { outcome: 'committed', home, ...commit }
  if (record?.outcome === 'COMMITTED') {
    throw new HoldfastError('internal', `${home} has a record of ${transactionId} as committed, and no commit`, {
      detail: { shard: home, transactionId },
    })
  }
  // The journal is written by the gateway that ran it, and only once it had definitely failed.
  return { outcome: 'aborted', home, reason: record === undefined ? (refusal ?? '') : record.reason }
}
