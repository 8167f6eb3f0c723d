import { HoldfastError } from '../base/errors.ts'
import type { NodeId } from '../directory/topology.ts'
import type { Frontier } from '../session/frontier.ts'
import { emptyFrontier } from '../session/frontier.ts'
import { unexplainedShards } from '../session/proof.ts'
import type { DomainClient, QueryResult } from '../transaction/transaction.ts'
import type { ReadEnvironment } from './environment.ts'
import { ReadRun } from './read-run.ts'
import type { Declared } from './routes.ts'
import { requireDeclared } from './routes.ts'
import type { Served } from './served.ts'
import { requireWait, WaitBudget, waitMsOf } from './wait-budget.ts'

/**
 * Serving reads: from the nearest node that may hold the data and that proves, in the snapshot that answers, that it
 * contains what the session must not miss.
 *
 * The simple way is to read the primary, which is far away for most, or a follower, and hope. Measuring the follower's
 * lag first does not help: it was measured before the read and says nothing about the snapshot that answers. Reading
 * first and checking afterwards does not help either: the follower has moved on, and vouches for what the answer lacks.
 *
 *   R1  The proof is in the snapshot that answers, and its position was read before that snapshot was taken (HZ-T1). An
 *       answer whose proof fails is thrown away; nobody has seen it.
 *   R2  What is not proven is waited for within the budget, then asked of another legal node, then refused with a
 *       reason. Nothing else ends a read. A cached figure may choose the node and never justify an answer.
 *   R3  A follower is asked only where the policy of everything that the tenant has on the shard allows a replica. The
 *       placement is in the proof (HZ-T6).
 *   R4  All statements of a read on one shard are answered from one snapshot of one node. When the node is lost, the
 *       caller's function is run again, elsewhere.
 *   R5  The proof is asked of primaries too (HZ-X3). What a primary does not show because it is decided and not settled
 *       is settled first.
 *   R6  A session that goes on with the answer's frontier is never shown less than the answer, on any node.
 *   R7  `strong` shows every transaction that was acknowledged before the read began: branches are settled before the
 *       snapshot, and nothing is released before a barrier has shown that this was the primary and that what it
 *       showed is on its followers (HZ-S1).
 *   R8  The caller's statements run as the application's role, bound to the tenant, in a transaction that cannot write.
 *   R9  A read that is answered outside its gateway's region is counted, by its route.
 *   R10 One that is declared local is answered all the same, and leaves a record on the shard that it read.
 *   R11 No read waits for a record, and records are bounded, whatever routes are called.
 *   R12 A node is lost when it is silent, breaks off, or has nothing of the shard, and until it has answered a look, which
 *       no reader waits for. Replay that ends a snapshot, our own queue and a statement that does not fit make no loss:
 *       else one long query would send every reader of a follower to the primary.
 *   R13 A snapshot that is lost is taken anew, on a node that has not failed the read as far as there is one.
 *   R14 Who waits for a connection waits as long as the budget lasts. What overflows from a follower goes to another, and
 *       takes of the primary what is free.
 *   R15 A node is read as what the fleet has it for: one that was promoted takes no read before the fleet says so.
 *
 * Owns: the order in which nodes are asked (`node-choice.ts`), one snapshot of one node (`shard-snapshot.ts`), what need not be
 * asked because it was told before (`expectation.ts`), the search for one that proves (`proven-snapshot.ts`), what failures mean
 * (`read-failure.ts`), waiting (`freshness-watch.ts`), snapshots over several shards (`snapshot.ts`), reads that leave their
 * region (`cross-region.ts`). Does not own: what is to be proven and whether it is (`session/`), settling branches and
 * barriers (`transaction/`), tokens. Talks to: PostgreSQL primaries and followers, the directory, the topology. SQL:
 * `sql/functions/50-proof.sql`. The protocol is docs/protocols/visibility.md.
 *
 * HAZARD: the caller's function may run more than once; it must do nothing but ask `read`.
 */

/**
 * `session`: read your writes, never back in time, on the shards of the frontier. `causal`: everything that happened
 * before the frontier, on any shard. `primary`: the same as `session`, from the node that writes. `strong`: everything
 * acknowledged before the read began. `stale`: nothing older than `maxStaleMs`, and nothing about the session.
 */
export const readLevels = ['session', 'causal', 'primary', 'strong', 'stale'] as const
export type ReadLevel = (typeof readLevels)[number]

export interface ReadRequest extends Declared {
  readonly tenant: string
  /** Of the caller's token. Without one the answer only begins a session. */
  readonly frontier?: Frontier | undefined
  /** `session` when left out. */
  readonly level?: ReadLevel | undefined
  /** Of a `stale` read: the oldest that its answer may be. */
  readonly maxStaleMs?: number | undefined
  /**
   * How long the read may wait before it goes elsewhere or is refused: for nodes to become fresh, and for connections that
   * other reads of this process use. When left out 50, for `causal` at least twice the longest round trip, five times where
   * the frontier has pending branches, 2,000 for `strong`. 0 never waits; at most 60,000.
   */
  readonly waitMs?: number | undefined
  /** The node to ask first, if it is legal. */
  readonly prefer?: NodeId | undefined
}

export interface Read {
  /**
   * One statement, as the application's role, under row-level security, on the shard where the domain is placed. Throws
   * `argument_invalid` once the function has ended, or has returned the promise of its only statement.
   */
  query<R = Record<string, unknown>>(domain: string, text: string, values?: readonly unknown[]): Promise<QueryResult<R>>
  /** The same as `query`, in the form that query builders take. */
  client(domain: string): DomainClient
}

export interface Answer<T> {
  readonly value: T
  /** What the session has now seen; of a `stale` read, the frontier of the request. */
  readonly frontier: Frontier
  /** One a shard, in the order in which they were asked first. */
  readonly served: readonly Served[]
}

/**
 * Reads for one tenant. Throws what the function throws, as it is, and
 *
 * | error | retry |
 * |---|---|
 * | `frontier_not_reached`, `node_unavailable`, `placement_stale` | safe; the first two say in `detail` when, and what came of each node |
 * | `statement_timeout` | safe, and as slow again |
 * | `write_lost`, `history_rewritten`, `history_changed` | never: go on without the token, knowing what is gone |
 * | `statement_refused`, `statement_failed`, `argument_invalid`, `unknown_tenant`, `unknown_domain` | never |
 * | `tenant_rejected` | safe, once a legal region is back |
 *
 * One statement costs one flight to the node that answers. A function that returns the promise of its only statement is over
 * with it, and the end of the transaction is in that flight:
 *
 * ```sql
 * begin isolation level repeatable read, read only;
 * select ..., set_config('holdfast.tenant', 'globex-eu', true), ... from holdfast.evidence ...;
 * select status from payroll_runs where id = 'apr-2026';
 * commit;
 * ```
 */
export async function read<T>(
  environment: ReadEnvironment,
  request: ReadRequest,
  body: (read: Read) => Promise<T>,
): Promise<Answer<T>> {
  checkRequest(request)
  const { limits, metrics, region, clock } = environment
  const startedMs = clock.monotonicMs()
  const level = request.level ?? 'session'
  const budget = new WaitBudget(waitMsOf(environment, request), clock)
  await explainFrontier(environment, request.tenant, request.frontier ?? emptyFrontier)
  const avoid = new Set<NodeId>()
  for (let runs = 1; ; runs += 1) {
    const run = new ReadRun(environment, request, budget, avoid)
    const end = await run.run(body)
    if (end.kind === 'answered') {
      const waitedMs = end.answer.served.reduce((sum, served) => sum + served.waitedMs, 0)
      metrics.observe('session_read_wait_ms', waitedMs, { level, region })
      return end.answer
    }
    const isTimely = clock.monotonicMs() - startedMs < limits.statementWithinMs
    if (end.kind === 'interrupted' && isTimely && runs < limits.runsMax) {
      // It was the connection that did not fit.
      if (end.by.why !== 'outdated') avoid.add(end.by.node.id)
      metrics.count('session_read_repeated_total', { region, why: end.by.why })
      continue
    }
    const isUnavailable = end.error instanceof HoldfastError && end.error.category === 'unavailable'
    if (isUnavailable) metrics.count('session_read_failed_total', { level, region })
    throw end.error
  }
}

/** A directory that cannot explain where the session has been is late, and would lead to the old place. */
async function explainFrontier({ directory }: ReadEnvironment, tenant: string, frontier: Frontier): Promise<void> {
  if (unexplainedShards(frontier, directory.current().placementsOf(tenant)).length > 0) await directory.refresh()
}

function checkRequest({ level, maxStaleMs, waitMs, ...declared }: ReadRequest): void {
  requireDeclared(declared)
  if (level !== undefined && !readLevels.includes(level)) {
    throw new HoldfastError('argument_invalid', `${JSON.stringify(level)} is no level of a read`, {
      hint: `write one of ${readLevels.join(', ')}, or leave it out for session`,
    })
  }
  requireWait({ waitMs })
  const isAge = maxStaleMs === undefined || (Number.isFinite(maxStaleMs) && maxStaleMs >= 0)
  if (!isAge || (maxStaleMs === undefined) !== (level !== 'stale')) {
    throw new HoldfastError('argument_invalid', 'maxStaleMs goes with the level stale, and with no other', {
      hint: "write { level: 'stale', maxStaleMs: 5_000 }",
    })
  }
}
