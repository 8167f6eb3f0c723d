import { unreachable } from '../base/assert.ts'
import { HoldfastError } from '../base/errors.ts'
import type { ShardName, ShardTopology, TransactionId } from '../directory/topology.ts'
import type { Hlc } from '../hlc/hlc.ts'
import { hlcFromWallMs } from '../hlc/hlc.ts'
import type { Statement, StatementOutcome } from '../postgres/statement.ts'
import { ConnectionLost } from '../postgres/failure.ts'
import type { Lsn } from '../postgres/lsn.ts'
import { sqlState } from '../postgres/sqlstate.ts'
import { judgePrepare, judgeReading } from './acknowledgement.ts'
import { barrierFlight, readBarrier } from './barrier.ts'
import { unexpectedRows } from './batch.ts'
import { unsendable } from './caller-statement.ts'
import type { CommitEvent } from './commit-protocol.ts'
import type { TransactionEnvironment } from './environment.ts'
import { formatGid } from './gid.ts'
import type { ShardTransaction } from './shard-transaction.ts'
import { toHoldfastError } from './sql-errors.ts'
import type { BusinessAction } from './transaction-store.ts'
import * as store from './transaction-store.ts'

/** What the branch says of the transaction that it belongs to. */
export interface BranchPlan {
  readonly transactionId: TransactionId
  readonly business: BusinessAction
  readonly home: ShardTopology
  readonly participants: readonly ShardName[]
  readonly homeClock: Hlc
}

export interface Vote {
  readonly event: CommitEvent
  /** After the prepare, of a yes; of a reader, after the barrier. */
  readonly position?: Lsn
}

/**
 * Takes one participant's vote, in one flight: the batch, the branch row and PREPARE TRANSACTION, with the opening in
 * front when nothing was sent before. Never rejects.
 */
export async function prepareParticipant(
  environment: TransactionEnvironment,
  participant: ShardTransaction,
  plan: BranchPlan,
): Promise<Vote> {
  const { onStep, metrics, clock, limits, region } = environment
  const { shard } = participant
  const where = { transactionId: plan.transactionId, shard: shard.name }
  const started = clock.monotonicMs()
  try {
    await onStep('global branch opened', where)
    const { outcomes, openingFailure } = await participant.last(
      [
        ...participant.batch.map(({ statement }) => statement),
        ...prepareStatements(environment.fleet, participant, plan, hlcFromWallMs(clock.wallMs())),
      ],
      limits.commitWithinMs,
      () => onStep('global prepare sent', where),
    )
    const vote = toVote(outcomes, openingFailure, participant, where)
    if (vote.event.kind === 'vote yes') {
      const labels = { from: region, to: shard.primary.region }
      metrics.observe('global_txn_prepare_ms', clock.monotonicMs() - started, labels)
      await onStep('global prepare acknowledged', where)
    }
    return vote
  } catch (error) {
    const failure = error instanceof TypeError ? unsendable(error) : toHoldfastError(error, where)
    const mayStand = error instanceof ConnectionLost && error.sent
    return { event: { kind: mayStand ? 'vote lost' : 'vote no', shard: shard.name, failure } }
  } finally {
    participant.release()
  }
}

/**
 * The vote of a participant that only read, in one flight: a batch that is taken for a reading, the conclusion, and a barrier.
 * It has nothing to lose, so it is not prepared; but what was read must come from the authority. Its shard confirms that it is
 * one, at the epoch and for the placements of this transaction, and a barrier behind the reads, on the connection that read,
 * confirms that no other has taken its place by then.
 *
 * It commits in the same flight, so the vote is final. A rollback would take from a serializable one what watches over its
 * reads, and so would the loss of a connection that holds it open; behind a COMMIT PostgreSQL keeps its locks of reading for as
 * long as anybody is concurrent with it. Never rejects.
 */
export async function confirmReader(
  environment: TransactionEnvironment,
  reader: ShardTransaction,
  { transactionId, tenant }: { readonly transactionId: TransactionId; readonly tenant: string },
): Promise<Vote> {
  const { onStep, readingBatches, limits } = environment
  const { shard, placements, batch } = reader
  const where = { transactionId, shard: shard.name }
  try {
    const { outcomes, openingFailure, outcomesBehind } = await reader.last(
      [
        ...batch.map(({ statement }) => statement),
        ...store.concludeCaller,
        store.concludeReading(transactionId, tenant, shard.epoch, placements),
        store.commit,
      ],
      limits.commitWithinMs,
      () => onStep('global reading sent', where),
      barrierFlight,
    )
    const answer = judgeReading(outcomes)
    if (answer.kind === 'trace') readingBatches.noteTrace(batch)
    if (answer.kind !== 'read') return { event: readingRefused(outcomes, openingFailure, where) }
    const position = readBarrier(shard.name, outcomesBehind)
    const failure = unexpectedRows(batch, outcomes, shard.name)
    if (failure !== undefined) return { event: { kind: 'vote no', shard: shard.name, failure } }
    await onStep('global reading confirmed', where)
    return { event: { kind: 'vote read', shard: shard.name, timestamp: answer.timestamp }, position }
  } catch (error) {
    const failure = error instanceof TypeError ? unsendable(error) : toHoldfastError(error, where)
    return { event: { kind: 'vote no', shard: shard.name, failure } }
  } finally {
    reader.release()
  }
}

function readingRefused(
  outcomes: readonly StatementOutcome[],
  openingFailure: HoldfastError | undefined,
  where: { readonly transactionId: TransactionId; readonly shard: ShardName },
): CommitEvent {
  const failed = outcomes.find((outcome) => !outcome.ok)
  const unended =
    failed === undefined ? aborted(`the reading on ${where.shard} did not end in COMMIT`, where) : undefined
  const failure = openingFailure ?? unended ?? toHoldfastError(failed?.error, where)
  return { kind: 'vote no', shard: where.shard, failure }
}

function prepareStatements(
  fleet: string,
  participant: ShardTransaction,
  { transactionId, business, home, participants, homeClock }: BranchPlan,
  wall: Hlc,
): Statement[] {
  const { shard, placements } = participant
  const gid = formatGid(fleet, { home: home.name, transactionId, participant: shard.name })
  return [
    ...store.concludeCaller,
    store.prepareBranch({
      transactionId,
      epoch: shard.epoch,
      gid,
      home: home.name,
      homeEpoch: home.epoch,
      participants,
      business,
      placements,
      homeClock,
      wall,
    }),
    store.prepareTransaction(gid),
    store.flushedPosition,
  ]
}

function toVote(
  outcomes: readonly StatementOutcome[],
  openingFailure: HoldfastError | undefined,
  participant: ShardTransaction,
  where: { readonly transactionId: TransactionId; readonly shard: ShardName },
): Vote {
  const { shard } = where
  const answer = judgePrepare(outcomes)
  switch (answer.kind) {
    case 'yes': {
      const failure = unexpectedRows(participant.batch, outcomes, shard)
      if (failure !== undefined) return { event: { kind: 'vote lost', shard, failure } }
      return { event: { kind: 'vote yes', shard, timestamp: answer.timestamp }, position: answer.position }
    }
    case 'may stand': {
      const failure = aborted(`the prepare on ${shard} is not acknowledged: ${answer.why}`, where)
      return { event: { kind: 'vote lost', shard, failure } }
    }
    case 'no': {
      const failed = outcomes.find((outcome) => !outcome.ok)
      const refused = failed === undefined ? aborted(`the prepare on ${shard} answered ROLLBACK`, where) : undefined
      const failure =
        openingFailure ?? refused ?? unpreparable(outcomes, where) ?? toHoldfastError(failed?.error, where)
      return { event: { kind: 'vote no', shard, failure } }
    }
    default:
      return unreachable(answer)
  }
}

/** What hid it from the guard is a function: `0A000` in answer to the prepare itself says that its work cannot be prepared. */
function unpreparable(
  outcomes: readonly StatementOutcome[],
  where: { readonly transactionId: TransactionId; readonly shard: ShardName },
): HoldfastError | undefined {
  const [branch, prepared] = outcomes.slice(-3)
  if (!branch?.ok || prepared === undefined || prepared.ok) return undefined
  const { sqlState: state, message } = prepared.error
  if (state !== sqlState.featureNotSupported) return undefined
  return new HoldfastError('statement_refused', `what was done on ${where.shard} cannot be prepared: ${message}`, {
    hint: 'leave temporary tables, notifications and exported snapshots out of actions over several shards',
    detail: { ...where, sqlState: state },
    cause: prepared.error,
  })
}

function aborted(message: string, where: { readonly transactionId: TransactionId; readonly shard: ShardName }) {
  return new HoldfastError('transaction_aborted', message, { detail: { ...where } })
}
