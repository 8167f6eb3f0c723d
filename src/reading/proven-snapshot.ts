import { HoldfastError } from '../base/errors.ts'
import { endsWithin } from '../base/within.ts'
import type { Placement } from '../directory/directory.ts'
import type { FleetNode, NodeId, ShardTopology, TenantName } from '../directory/topology.ts'
import { hlcZero } from '../hlc/hlc.ts'
import type { ConnectionTarget, StatementOutcome } from '../postgres/statement.ts'
import { evidenceQuestion, remedyFor } from '../session/proof.ts'
import type { Verdict } from '../session/proof.ts'
import { refusalFor } from '../session/refusal.ts'
import type { ReadEnvironment } from './environment.ts'
import { refreshed } from './environment.ts'
import type { Remembered } from './expectation.ts'
import { bearsOut, isExpected } from './expectation.ts'
import type { Demand } from './judgement.ts'
import { awaitedFor, demandedPosition, judge, retryAfterMs } from './judgement.ts'
import { rankNodes } from './node-choice.ts'
import type { Leaving } from './read-failure.ts'
import { NodeLost, toReadError } from './read-failure.ts'
import type { FirstStatement, OpenedSnapshot } from './shard-snapshot.ts'
import { ShardSnapshot } from './shard-snapshot.ts'
import type { WaitBudget } from './wait-budget.ts'

/**
 * Finding a node that proves a demand: ask, and when it is not fresh wait, reroute, or fail explicitly.
 *
 * Nodes are asked in the order of `rankNodes`. One that is behind is waited for within the budget of the read, then the
 * next is asked; the nodes after the first share a quarter of the budget. What a node may never show (a branch that is
 * decided and not settled) is pushed rather than waited for. When every node has failed, the topology is asked once
 * whether there are others.
 */
export interface SnapshotDemand extends Demand {
  /** Null for an operator's read. */
  readonly tenant: TenantName | null
  /** What may be read from it, for the law; none for what no policy is about. */
  readonly placements: readonly Placement[]
  readonly prefer: NodeId | undefined
  /** Nodes that have failed the read before. */
  readonly avoid: ReadonlySet<NodeId>
  readonly targetOf: (node: FleetNode) => ConnectionTarget
}

export interface ProvenSnapshot {
  readonly snapshot: ShardSnapshot
  readonly answer: Promise<StatementOutcome> | undefined
  readonly waitedMs: number
  readonly rerouted: boolean
}

/** Of the budget, for the first node that is asked; the rest is for those after it. */
const firstShare = 0.75
/** About what a promotion or a restart behind a barrier takes. */
const fencedRetryAfterMs = 500

/**
 * Throws `frontier_not_reached`, `node_unavailable`, what a lost or rewritten history tells, or `placement_stale` when
 * the directory must be asked anew; or a `TypeError` for a statement that cannot be sent.
 */
export async function openProven(
  environment: ReadEnvironment,
  demand: SnapshotDemand,
  budget: WaitBudget,
  first: FirstStatement | undefined,
): Promise<ProvenSnapshot> {
  const before = shardOf(environment, demand)
  const search = new Search(environment, demand, budget, first)
  const found = await search.ask(before)
  if (found !== undefined) return found
  const after = (await refreshed(environment)).shards.get(demand.shard)
  const again = after === undefined || isSame(before, after) ? undefined : await search.ask(after)
  if (again !== undefined) return again
  throw search.failure()
}

function shardOf(environment: ReadEnvironment, { shard }: Demand): ShardTopology {
  const known = environment.topology.current().shards.get(shard)
  if (known !== undefined) return known
  throw new HoldfastError('unknown_shard', `no shard ${shard} in the topology`, { detail: { shard } })
}

function isSame(a: ShardTopology, b: ShardTopology): boolean {
  const idsOf = (shard: ShardTopology) => [shard.primary, ...shard.followers].map(({ id }) => id).join(' ')
  return a.state === b.state && a.epoch === b.epoch && a.historyId === b.historyId && idsOf(a) === idsOf(b)
}

type NotProven = Exclude<Verdict, { kind: 'proven' }>

/** What came of asking a node. */
interface Asked {
  readonly node: NodeId
  readonly why: NotProven['kind'] | Leaving
}

class Search {
  readonly #environment: ReadEnvironment
  readonly #demand: SnapshotDemand
  readonly #budget: WaitBudget
  readonly #first: FirstStatement | undefined
  readonly #asked: Asked[] = []
  #waitedMs = 0
  #isCrowded = false
  #lastVerdict: { readonly verdict: NotProven; readonly node: FleetNode } | undefined
  #lastLost: NodeLost | undefined

  constructor(
    environment: ReadEnvironment,
    demand: SnapshotDemand,
    budget: WaitBudget,
    first: FirstStatement | undefined,
  ) {
    this.#environment = environment
    this.#demand = demand
    this.#budget = budget
    this.#first = first
  }

  /** Asks the nodes of the shard in turn; undefined when none of them can answer. */
  async ask(shard: ShardTopology): Promise<ProvenSnapshot | undefined> {
    const left = this.#rank(shard)
    let share = left.length > 1 ? firstShare : 1
    for (let node = left.shift(); node !== undefined; node = left.shift()) {
      const rerouted = this.#asked.length > 0
      const found = await this.#askNode(shard, node, share)
      share = 1
      // What overflows from a follower goes to another before it comes to the primary.
      if (this.#isCrowded) left.sort((a, b) => Number(a.role === 'primary') - Number(b.role === 'primary'))
      if (found === undefined) continue
      const { region, metrics } = this.#environment
      if (rerouted && !found.snapshot.proof.follows) metrics.count('session_read_primary_fallback_total', { region })
      return { ...found, waitedMs: this.#waitedMs, rerouted }
    }
    return undefined
  }

  /** What is told when no node could answer: the last verdict, else the last node that was lost. */
  failure(): unknown {
    if (this.#lastVerdict !== undefined) {
      const { verdict, node } = this.#lastVerdict
      const by = { shard: node.shard, node: node.id, retryAfterMs: retryAfterMs(verdict), asked: this.#asked }
      return refusalFor(verdict, by)
    }
    if (this.#lastLost === undefined) {
      // Nobody was asked: the primary takes no traffic, and no follower may answer this.
      const { shard } = this.#demand
      return new HoldfastError('shard_fenced', `${shard} takes no traffic now`, {
        hint: 'it is being promoted, restored or brought back; try again soon',
        detail: { shard, retryAfterMs: fencedRetryAfterMs },
      })
    }
    const lost = this.#lastLost
    return toReadError(lost, lost.node, this.#asked)
  }

  async #askNode(
    shard: ShardTopology,
    node: FleetNode,
    share: number,
  ): Promise<Omit<ProvenSnapshot, 'waitedMs' | 'rerouted'> | undefined> {
    const pushed = new Set<string>()
    const untilMs = this.#waitedMs + this.#budget.leftMs * share
    // Other shards of the read may have waited meanwhile, while this one worked.
    const leftMs = () => Math.min(untilMs - this.#waitedMs, this.#budget.leftMs)
    let mayBeLean = true
    for (;;) {
      const opened = await this.#open(node, mayBeLean, leftMs())
      if (opened === undefined) return undefined
      const { snapshot, answer, isLean } = opened
      const verdict = judge(this.#demand, shard, snapshot)
      this.#noteFresh(snapshot, verdict)
      if (verdict.kind === 'proven' && (!isLean || bearsOut(this.#demand, snapshot))) return { snapshot, answer }
      snapshot.end()
      if (verdict.kind === 'proven' || isLean) {
        mayBeLean = false
        continue
      }
      this.#lastVerdict = { verdict, node }
      this.#note({ node: node.id, why: verdict.kind })
      const remedy = remedyFor(verdict)
      if (remedy === 'refuse' || remedy === 'refresh_directory') throw this.failure()
      if (remedy !== 'wait') return undefined
      const isWorthAsking =
        (await this.#push(verdict, snapshot, pushed, leftMs())) || (await this.#wait(verdict, snapshot, leftMs()))
      if (!isWorthAsking) return undefined
    }
  }

  async #open(node: FleetNode, mayBeLean: boolean, patienceMs: number): Promise<OpenedSnapshot | undefined> {
    const { tenant, shard, frontier, targetOf } = this.#demand
    const histories = frontier.shards.get(shard)?.histories ?? []
    const question = {
      transactionIds: evidenceQuestion(frontier, shard),
      histories: histories.map(({ historyId }) => historyId),
    }
    const { clock } = this.#environment
    // Readers that overflow from a follower do not stand in front of those who write: they take what is free.
    const queueMs = this.#isCrowded && node.role === 'primary' ? 0 : Math.max(0, patienceMs)
    const startedMs = clock.monotonicMs()
    try {
      const expects = (remembered: Remembered) => mayBeLean && isExpected(this.#demand, remembered)
      const request = { node, target: targetOf(node), tenant, question, isExpected: expects, queueMs }
      const opened = await ShardSnapshot.open(this.#environment, request, this.#first)
      this.#spend(opened.queuedMs, startedMs)
      return opened
    } catch (error) {
      if (!(error instanceof NodeLost)) throw error
      // A statement that ran is work; a node that did not answer was waited for.
      if (error.why === 'lost' || error.why === 'busy') this.#spend(clock.monotonicMs() - startedMs, startedMs)
      this.#note({ node: node.id, why: error.why })
      const isBusy = error.why === 'busy'
      this.#isCrowded ||= isBusy
      // Of several queues the one that it stood in for longest is told.
      if (!isBusy || this.#lastLost === undefined) this.#lastLost = error
      return undefined
    }
  }

  #spend(ms: number, fromMs: number): void {
    this.#budget.spend(ms, fromMs)
    this.#waitedMs += ms
  }

  #noteFresh({ node, proof }: ShardSnapshot, { kind }: Verdict): void {
    const { watch } = this.#environment
    if (kind === 'proven') watch.noteProven(node.id, proof)
    else watch.noteFresh(node.id, proof)
  }

  #note(asked: Asked): void {
    const known = this.#asked.findIndex(({ node }) => node === asked.node)
    if (known === -1) this.#asked.push(asked)
    else this.#asked[known] = asked
  }

  /**
   * Settles, once, the branches that a primary does not show; true when it is worth asking again at once. A follower
   * shows them when it has received what the primary then writes, which is waited for. What is not settled in time goes on
   * without this read.
   */
  async #push(verdict: Verdict, snapshot: ShardSnapshot, pushed: Set<string>, withinMs: number): Promise<boolean> {
    if (verdict.kind !== 'behind' || verdict.missing.what !== 'transactions') return false
    const fresh = verdict.missing.transactionIds.filter((id) => !pushed.has(id))
    for (const id of fresh) pushed.add(id)
    const settled = Promise.all(fresh.map((id) => this.#environment.settle(this.#demand.shard, id)))
    if (snapshot.proof.follows) {
      settled.catch(() => undefined)
      return false
    }
    if (fresh.length === 0) return false
    const ended = this.#budget.begin()
    try {
      return await endsWithin(this.#environment.clock, settled, withinMs)
    } finally {
      this.#waitedMs += ended()
    }
  }

  async #wait(verdict: Verdict, { node, positionBefore }: ShardSnapshot, withinMs: number): Promise<boolean> {
    const { watch, topology } = this.#environment
    if (withinMs <= 0) {
      watch.noteLate(node.id)
      return false
    }
    const awaited = awaitedFor(verdict, positionBefore, this.#demand.frontier)
    const closing = awaited.what === 'closed' ? awaited.timestamp : awaited.what === 'transactions' && awaited.orClosed
    const primary = topology.current().shards.get(node.shard)?.primary
    if (closing !== false && primary !== undefined) watch.requestClosing(primary, closing)
    const ended = this.#budget.begin()
    try {
      return (await watch.until(node, awaited, withinMs)) === 'met'
    } finally {
      this.#waitedMs += ended()
    }
  }

  #rank(shard: ShardTopology): FleetNode[] {
    const { region, topology, distanceMs, watch, limits } = this.#environment
    const { level, placements, prefer, avoid, frontier } = this.#demand
    for (const node of [shard.primary, ...shard.followers]) watch.lookIfLost(node, limits.avoidForMs)
    return rankNodes(shard, {
      region,
      regions: topology.current().regions,
      placements,
      primaryOnly: level === 'primary',
      prefer,
      distanceMs,
      sightingOf: (node) => watch.sightingOf(node),
      avoid,
      demanded: {
        position: demandedPosition(frontier, shard.name, shard.historyId),
        closedTimestamp: level === 'causal' ? frontier.timestamp : hlcZero,
      },
    })
  }
}
