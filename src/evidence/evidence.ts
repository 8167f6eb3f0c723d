import type { TransactionId } from '../directory/topology.ts'
import type { Hlc } from '../hlc/hlc.ts'
import { gatherFacts } from './gather.ts'
import type { EvidenceSources } from './gather.ts'
import { proofChain, statusOfChain } from './proof-chain.ts'
import type { ProofLink, ProofStatus } from './proof-link.ts'
import { actionOf, traceTransaction } from './trace.ts'
import { viewOf } from './transaction-view.ts'

/**
 * Evidence: what the platform can prove about one business action, link by link.
 *
 * The simple way is a report that says what the platform believes: it asks the shard that committed, prints the row,
 * and is right on every good day. It is worth nothing on a bad one, because it cannot tell "I know that it is so" from
 * "nobody told me otherwise". So facts are gathered as data, each *known* or not with the reason, and the verdicts are
 * a pure function of them: a link is proven by facts that say so, broken by facts that say otherwise, pending without.
 *
 * Owns: the eight verdicts, the gathering, the merged history. Does not own: what it asks about, and never changes
 * it; proving writes nothing but the barriers that it waits for. Talks to: the primaries and followers of every shard,
 * archives, the journal of deliveries, reports of drills.
 *
 *   V1  Every link is there, in order, whatever is known: the verdicts are total.
 *   V2  Nothing unknown is proven. A link over several shards or nodes is proven only when it is for all of them.
 *   V3  What a primary shows counts only behind a barrier; a verdict that was told does not change by a failover.
 *   V4  More knowledge never turns broken into proven: what is broken stays visible until it is repaired.
 *   V5  The merged history has committed transactions alone, each once, in the order of (commit timestamp, id), and is
 *       complete up to the least closed timestamp of all shards: nothing behind that is told.
 *
 * HAZARD: evidence is as good as the archive and the journal of deliveries. Both lie outside the servers for that reason.
 */
export interface Evidence {
  readonly transactionId: string
  /** `broken` when a link is; `proven` when every link is; else `pending`. */
  readonly status: ProofStatus
  readonly commitTimestamp: Hlc | null
  readonly tenant: string | null
  readonly action: string | null
  readonly subject: string | null
  readonly actor: string | null
  /** All eight, in order. */
  readonly links: readonly ProofLink[]
}

/**
 * The evidence of one transaction. Throws `unknown_transaction` (never) when every shard answers and none has a trace
 * of it, `node_unavailable` (safe) when one that might have a trace does not answer.
 */
export async function prove(sources: EvidenceSources, transactionId: TransactionId): Promise<Evidence> {
  const trace = await traceTransaction(sources.environment, transactionId)
  const { commitTimestamp } = viewOf(trace)
  const links = proofChain(await gatherFacts(sources, trace))
  const { tenant, action, subject, actor } = actionOf(trace) ?? {
    tenant: null,
    action: null,
    subject: null,
    actor: null,
  }
  return { transactionId, status: statusOfChain(links), commitTimestamp, tenant, action, subject, actor, links }
}
