import { present } from '../base/assert.ts'
import type { Epoch } from '../directory/topology.ts'
import { hlcFromWallMs } from '../hlc/hlc.ts'
import type { StatementOutcome } from '../postgres/statement.ts'
import { ServerError } from '../postgres/failure.ts'
import { sqlState } from '../postgres/sqlstate.ts'
import { noteAdoption } from './adoption.ts'
import type { TransactionEnvironment } from './environment.ts'
import { primaryTarget } from './environment.ts'
import type { BranchName } from './gid.ts'
import { formatGid } from './gid.ts'
import type { Decision } from './decision-store.ts'
import * as decisions from './decision-store.ts'

/**
 * Settling one branch at its participant, by a decision that is known and replicated. The coordinator, the resolver
 * and a reader that pushes all come through here; any number of them may, at once.
 *
 * It takes one flight. The locks of a branch are held until it is settled, and so is the closed timestamp of its shard: a
 * round trip more for the decision would hold both for as much longer.
 *
 *   S1  The participant's clock passes the commit timestamp, and the decision row is written, before the branch is
 *       committed: whoever sees the branch finds its timestamp, and nothing below it is stamped afterwards.
 *   S2  `commit prepared` is run only when both were accepted: a decision above the clock is refused, and the settlement shares
 *       its sync point (D6). A refusal (a home epoch older than one seen, a contradicting decision, a timestamp that no home
 *       can have decided) leaves the branch prepared.
 *   S3  Success is the branch's row being visible. "Does not exist" may mean that another settled it, that it was never
 *       prepared, or that somebody rolled it back; only the row tells.
 */
export type Settlement =
  | { readonly kind: 'settled' }
  /** Another is settling it at this moment. */
  | { readonly kind: 'busy' }
  /** Decided as committed, and there is neither a branch nor its row: for a person. */
  | { readonly kind: 'missing' }
  /** Decided as aborted, and its row is visible: for a person. */
  | { readonly kind: 'contradicted' }
  /** The participant refused the decision or did not answer; the branch is where it was. */
  | { readonly kind: 'failed'; readonly cause: unknown }

export interface SettleRequest {
  readonly branch: BranchName
  /** Of the home that the decision was learnt from. */
  readonly homeEpoch: Epoch
  readonly decision: Decision
}

/** Never rejects. Safe to repeat. */
export async function settleBranch(environment: TransactionEnvironment, request: SettleRequest): Promise<Settlement> {
  const { onStep } = environment
  const { transactionId, participant } = request.branch
  const where = { transactionId, shard: participant }
  try {
    await onStep('global decision row', where)
    const settlement = await decideAndFinish(environment, request, () => onStep('global settle sent', where))
    if (settlement.kind === 'settled') await onStep('global settled', where)
    return settlement
  } catch (error) {
    return { kind: 'failed', cause: error }
  }
}

async function decideAndFinish(
  environment: TransactionEnvironment,
  request: SettleRequest,
  onSent: () => Promise<void>,
): Promise<Settlement> {
  const { branch, decision, homeEpoch } = request
  const gid = formatGid(environment.fleet, branch)
  const wall = hlcFromWallMs(environment.clock.wallMs())
  const outcomes = await environment.pools.durableFlight(
    primaryTarget(environment, branch.participant),
    [
      ...(decision.outcome === 'COMMITTED' ? [decisions.observeDecided(decision.commitTimestamp, wall)] : []),
      ...decisions.decideFirst(decisions.recordDecision(branch.transactionId, decision, branch.home, homeEpoch)),
      decision.outcome === 'COMMITTED' ? decisions.commitPrepared(gid) : decisions.rollbackPrepared(gid),
      decisions.selectBranchVisible(branch.transactionId),
    ],
    environment.limits.serviceWithinMs,
    onSent,
  )
  if (decision.outcome === 'COMMITTED') noteAdoption(environment.metrics, branch.participant, outcomes[0])
  const [finished, visible] = outcomes.slice(-2)
  for (const outcome of outcomes.slice(0, -2)) if (!outcome.ok) throw outcome.error
  return judgeSettlement(
    decision.outcome,
    present(finished, 'the outcome of the settlement'),
    decisions.readAnswer(present(visible, 'whether the branch is visible')),
  )
}

/** S3, as a function of what came back. */
export function judgeSettlement(
  outcome: Decision['outcome'],
  finished: StatementOutcome,
  branchIsVisible: boolean,
): Settlement {
  if (!finished.ok && finished.error.sqlState === sqlState.notInPrerequisiteState) return { kind: 'busy' }
  if (!finished.ok && finished.error.sqlState !== sqlState.undefinedObject) {
    return { kind: 'failed', cause: finished.error }
  }
  if (outcome === 'COMMITTED') return branchIsVisible ? { kind: 'settled' } : { kind: 'missing' }
  return branchIsVisible ? { kind: 'contradicted' } : { kind: 'settled' }
}

/** True for what only a person can put right: a decision that contradicts what is there, or that no home can have taken. */
export function needsPerson(settlement: Settlement): boolean {
  if (settlement.kind === 'missing' || settlement.kind === 'contradicted') return true
  if (settlement.kind !== 'failed' || !(settlement.cause instanceof ServerError)) return false
  const { sqlState: state } = settlement.cause
  return state === sqlState.decisionContradicted || state === sqlState.clockOffsetExceeded
}
