import { HoldfastError } from '../base/errors.ts'
import type { TransactionId } from '../directory/topology.ts'
import type { Hlc } from '../hlc/hlc.ts'
import type { TransactionEnvironment } from '../transaction/environment.ts'
import type { RecordFacts } from './proof-facts.ts'
import type { Trace } from './trace.ts'
import { actionOf, homeOf, shardsOf, silentShards, traceTransaction } from './trace.ts'

/** What is known of one transaction, from its home and every participant. */
export interface TransactionView {
  readonly transactionId: string
  /** `in_doubt`: a branch is prepared and no record decides it yet. `refused`: it was tried and nothing was written. */
  readonly outcome: 'committed' | 'aborted' | 'in_doubt' | 'refused'
  readonly commitTimestamp: Hlc | null
  readonly tenant: string | null
  readonly action: string | null
  readonly subject: string | null
  readonly actor: string | null
  /** Null while only a prepared branch is known. */
  readonly home: string | null
  /** Of a refused or aborted one: the code and the reason of the last attempt. */
  readonly refusal: { readonly code: string; readonly reason: string } | null
  /** The decision at home; null for a transaction of one shard, which needs none. */
  readonly record: Pick<RecordFacts, 'outcome' | 'homeEpoch' | 'reason'> | null
  readonly branches: readonly BranchView[]
}

export interface BranchView {
  readonly shard: string
  /** `prepared` is settled by the resolver; `unreachable` says nothing about the branch. */
  readonly state: 'prepared' | 'committed' | 'absent' | 'unreachable'
  readonly prepareTimestamp: Hlc | null
  /** On whose word its shard's clock passed the commit timestamp, which it refused by itself (C8), and why. */
  readonly accepted: { readonly actor: string; readonly reason: string } | null
}

/**
 * What became of a transaction. Throws `unknown_transaction` when every shard answers and none has a trace of it,
 * `node_unavailable` (safe) when one that might have a trace does not answer.
 */
export async function viewTransaction(
  environment: TransactionEnvironment,
  transactionId: TransactionId,
): Promise<TransactionView> {
  return viewOf(await traceTransaction(environment, transactionId))
}

export function viewOf(trace: Trace): TransactionView {
  const { transactionId } = trace
  const home = homeOf(trace)
  const answers = [...trace.shards].flatMap(([shard, of]) => (of.known ? [{ shard, ...of.value }] : []))
  const recorded = answers.find(({ record }) => record !== null)
  const told = answers.find(({ branch }) => branch !== null)?.branch?.home
  const homeName = home?.shard ?? recorded?.shard ?? told ?? null
  const refused = answers.find(({ attempt }) => attempt !== null)?.attempt ?? null
  const outcome = outcomeOf(trace)
  if (outcome === undefined) throw noTrace(trace)
  const action = actionOf(trace)
  return {
    transactionId,
    outcome,
    commitTimestamp: home?.commit.commitTimestamp ?? null,
    tenant: action?.tenant ?? null,
    action: action?.action ?? null,
    subject: action?.subject ?? null,
    actor: action?.actor ?? null,
    home: homeName,
    refusal: refused === null ? null : { code: refused.code, reason: refused.reason },
    record:
      recorded?.record == null
        ? null
        : {
            outcome: recorded.record.outcome,
            homeEpoch: recorded.record.homeEpoch,
            reason: recorded.record.reason,
          },
    branches: branchesOf(trace, homeName),
  }
}

function outcomeOf(trace: Trace): TransactionView['outcome'] | undefined {
  const answers = [...trace.shards.values()].flatMap((of) => (of.known ? [of.value] : []))
  if (answers.some(({ commit, branch }) => commit !== null || branch !== null)) return 'committed'
  if (answers.some(({ record }) => record?.outcome === 'ABORTED')) return 'aborted'
  if (answers.some(({ prepared }) => prepared)) return 'in_doubt'
  // The journal of attempts is written once it had failed for good.
  return answers.some(({ attempt }) => attempt !== null) ? 'refused' : undefined
}

function branchesOf(trace: Trace, home: string | null): BranchView[] {
  return shardsOf(trace)
    .filter((shard) => shard !== home)
    .map((shard) => {
      const of = trace.shards.get(shard)
      const nothing = { shard, prepareTimestamp: null, accepted: null }
      if (of?.known !== true) return { ...nothing, state: 'unreachable' }
      const { branch, prepared } = of.value
      if (branch === null) return { ...nothing, state: prepared ? 'prepared' : 'absent' }
      const { prepareTimestamp, accepted } = branch.facts
      const word = accepted === null ? null : { actor: accepted.actor, reason: accepted.reason }
      return { shard, state: 'committed', prepareTimestamp, accepted: word }
    })
}

function noTrace(trace: Trace): HoldfastError {
  const { transactionId } = trace
  const silent = silentShards(trace)
  if (silent.length > 0) {
    return new HoldfastError('node_unavailable', `no answer about ${transactionId} from ${silent.join(', ')}`, {
      detail: { transactionId, shards: silent },
    })
  }
  return new HoldfastError('unknown_transaction', `no shard has a trace of transaction ${transactionId}`, {
    detail: { transactionId },
  })
}
