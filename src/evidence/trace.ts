import type { ShardName, TransactionId } from '../directory/topology.ts'
import type { TransactionEnvironment } from '../transaction/environment.ts'
import { primaryOf } from '../transaction/environment.ts'
import type { Known } from './proof-facts.ts'
import { known, unknown } from './proof-facts.ts'
import type { ActionTrace, CommitTrace, ShardTrace } from './trace-store.ts'
import { readTrace, traceStatements } from './trace-store.ts'

/**
 * What every primary of the fleet has on one transaction, each behind a barrier: what could still be lost is not
 * known (V3).
 */
export interface Trace {
  readonly transactionId: TransactionId
  readonly shards: ReadonlyMap<ShardName, Known<ShardTrace>>
}

export async function traceTransaction(
  environment: TransactionEnvironment,
  transactionId: TransactionId,
): Promise<Trace> {
  const names = [...environment.topology.current().shards.keys()]
  const traces = await Promise.all(names.map((shard) => traceOn(environment, shard, transactionId)))
  return { transactionId, shards: new Map(names.map((name, index) => [name, traces[index] ?? unknown('not asked')])) }
}

async function traceOn(
  environment: TransactionEnvironment,
  shard: ShardName,
  transactionId: TransactionId,
): Promise<Known<ShardTrace>> {
  const { pools, limits, barriers } = environment
  try {
    const primary = primaryOf(environment, shard)
    const outcomes = await pools.flight(primary.target, traceStatements(transactionId), limits.serviceWithinMs)
    const trace = readTrace(outcomes)
    await barriers.pass(shard, primary.id)
    return known(trace)
  } catch {
    // Why a shard cannot answer is for the status to say; here it only matters that it did not.
    return unknown(`${shard} does not answer behind a barrier`)
  }
}

/** The shard whose commit log has it. */
export function homeOf(trace: Trace): { readonly shard: ShardName; readonly commit: CommitTrace } | undefined {
  for (const [shard, of] of trace.shards) {
    if (of.known && of.value.commit !== null) return { shard, commit: of.value.commit }
  }
  return undefined
}

/** Who did what, from whichever shard knows. */
export function actionOf(trace: Trace): ActionTrace | undefined {
  const answers = [...trace.shards.values()].flatMap((of) => (of.known ? [of.value] : []))
  const found =
    homeOf(trace)?.commit ??
    answers.find(({ branch }) => branch !== null)?.branch ??
    answers.find(({ attempt }) => attempt !== null)?.attempt
  if (found === undefined || found === null) return undefined
  const { tenant, action, subject, actor } = found
  return { tenant, action, subject, actor }
}

/** Everything that has to do with it: shards with a trace, and those that a trace names. */
export function shardsOf(trace: Trace): ShardName[] {
  const named = [...trace.shards].flatMap(([shard, of]) => {
    if (!of.known) return []
    const { commit, branch, record, prepared } = of.value
    const here = commit !== null || branch !== null || record !== null || prepared
    return [
      ...(here ? [shard] : []),
      ...(commit?.participants ?? []),
      ...(branch?.participants ?? []),
      ...(branch === null ? [] : [branch.home]),
    ]
  })
  const home = homeOf(trace)?.shard
  return [...new Set([...(home === undefined ? [] : [home]), ...named])] as ShardName[]
}

/** Names of the shards that did not answer. */
export function silentShards(trace: Trace): ShardName[] {
  return [...trace.shards].flatMap(([shard, of]) => (of.known ? [] : [shard]))
}
