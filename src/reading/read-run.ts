import { HoldfastError, isHoldfastError } from '../base/errors.ts'
import { Underway } from '../base/underway.ts'
import type { Placement } from '../directory/directory.ts'
import { serviceOf } from '../directory/directory.ts'
import type { DomainName, FleetNode, NodeId, ShardName, ShardState, TenantName } from '../directory/topology.ts'
import type { Hlc } from '../hlc/hlc.ts'
import { hlcFromWallMs } from '../hlc/hlc.ts'
import type { Statement, StatementResult } from '../postgres/statement.ts'
import type { Frontier } from '../session/frontier.ts'
import { emptyFrontier } from '../session/frontier.ts'
import type { DecidedSettled } from '../transaction/settle-decided.ts'
import type { QueryResult } from '../transaction/transaction.ts'
import { readHasEnded, requireAllowed, toQueryResult, toStatement } from './caller-statement.ts'
import { countCrossRegion } from './cross-region.ts'
import type { ReadEnvironment } from './environment.ts'
import { refreshed } from './environment.ts'
import type { RoutedPlacement } from './judgement.ts'
import type { SnapshotDemand } from './proven-snapshot.ts'
import { openProven } from './proven-snapshot.ts'
import { NodeLost, toReadError, toSettlingError } from './read-failure.ts'
import type { Answer, Read, ReadRequest } from './reading.ts'
import type { Bound } from './served.ts'
import { advanceBy, requireServed, servedBy } from './served.ts'
import type { ShardSnapshot } from './shard-snapshot.ts'
import type { WaitBudget } from './wait-budget.ts'

/** How one run of the caller's function ended. */
export type RunEnd<T> =
  | { readonly kind: 'answered'; readonly answer: Answer<T> }
  | { readonly kind: 'failed'; readonly error: unknown }
  /** A snapshot was lost in the middle: another run may do better. */
  | { readonly kind: 'interrupted'; readonly by: NodeLost; readonly error: unknown }

/** Where a domain's statements go. */
interface Route {
  readonly shard: ShardName
  readonly routed: RoutedPlacement | undefined
}

/** One run of the caller's function, and the snapshots that it is answered from: one a shard. */
export class ReadRun {
  readonly #environment: ReadEnvironment
  readonly #request: ReadRequest
  readonly #tenant: TenantName
  readonly #frontier: Frontier
  readonly #budget: WaitBudget
  readonly #avoid: ReadonlySet<NodeId>
  readonly #bound = new Map<ShardName, Promise<Bound>>()
  readonly #underway = new Underway()
  #lost: NodeLost | undefined
  #ended = false
  /** The answer to the function's first statement, how many it has asked, and what it returned. */
  #first: Promise<unknown> | undefined
  #asked = 0
  #returned: Promise<unknown> | undefined

  constructor(environment: ReadEnvironment, request: ReadRequest, budget: WaitBudget, avoid: ReadonlySet<NodeId>) {
    this.#environment = environment
    this.#request = request
    this.#tenant = request.tenant as TenantName
    this.#frontier = request.frontier ?? emptyFrontier
    this.#budget = budget
    this.#avoid = avoid
  }

  async run<T>(body: (read: Read) => Promise<T>): Promise<RunEnd<T>> {
    let bound: readonly Bound[] = []
    try {
      const returned = body({
        query: (domain, text, values) => this.#query(domain, toStatement(text, values)),
        client: (domain) => ({ query: (query, values) => this.#query(domain, toStatement(query, values)) }),
      })
      this.#returned = returned
      const value = await returned
      bound = await this.#settle()
      if (this.#lost !== undefined) return this.#interrupted(this.#lost)
      if (this.#request.level === 'strong') await this.#pass(bound)
      return { kind: 'answered', answer: this.#answer(value, bound) }
    } catch (error) {
      bound = await this.#settle()
      return this.#lost === undefined ? { kind: 'failed', error } : this.#interrupted(this.#lost)
    } finally {
      for (const { snapshot } of bound) snapshot.end()
    }
  }

  #interrupted(by: NodeLost): { kind: 'interrupted'; by: NodeLost; error: unknown } {
    return { kind: 'interrupted', by, error: toReadError(by, by.node) }
  }

  /** Waits for what the function left behind, and gives the snapshots that were opened. */
  async #settle(): Promise<Bound[]> {
    this.#ended = true
    await this.#underway.ended()
    const bound = await Promise.allSettled(this.#bound.values())
    return bound.flatMap((one) => (one.status === 'fulfilled' ? [one.value] : []))
  }

  /** R7: whoever answers a barrier is the primary, and has what it showed on its followers. */
  async #pass(bound: readonly Bound[]): Promise<void> {
    await Promise.all(bound.map(({ snapshot: { node } }) => this.#passOn(node)))
  }

  /** A primary that was demoted under the read does not pass one. Where the fleet has another by now, that one is read. */
  async #passOn(node: FleetNode): Promise<void> {
    try {
      await this.#environment.barrier(node)
    } catch (error) {
      await this.#leaveReplaced(node, 'open', error)
      throw error
    }
  }

  /** `state` is that of the shard when the node was asked. */
  async #leaveReplaced(node: FleetNode, state: ShardState, cause: unknown): Promise<void> {
    const shard = (await refreshed(this.#environment)).shards.get(node.shard)
    const isReplaced = shard !== undefined && shard.primary.id !== node.id
    const hasOpened = shard?.state === 'open' && state !== 'open'
    if (isReplaced || hasOpened) this.#lost ??= new NodeLost(node, 'lost', cause)
  }

  #query<R>(domain: string, statement: Statement): Promise<QueryResult<R>> {
    const answer = this.#underway.begin(this.#send<R>(domain, statement))
    this.#asked += 1
    this.#first ??= answer
    return answer
  }

  /** A function that returned the answer to its only statement is over: nothing that comes later is a part of the read. */
  #endsWithFirst(): boolean {
    const isOnly = this.#asked === 1 && this.#first === this.#returned
    this.#ended ||= isOnly
    return isOnly
  }

  async #send<R>(domain: string, statement: Statement): Promise<QueryResult<R>> {
    if (this.#ended) throw readHasEnded()
    requireAllowed(statement.text)
    try {
      return toQueryResult<R>(await this.#ask(domain as DomainName, statement))
    } catch (error) {
      if (!isHoldfastError(error, 'placement_stale')) throw error
      // The directory was late: it is asked once, and the statement goes where the domain is placed now.
      await this.#environment.directory.refresh()
      return toQueryResult<R>(await this.#ask(domain as DomainName, statement))
    }
  }

  /** The statement's result from the snapshot of its shard, which the first statement opens. */
  async #ask(domain: DomainName, statement: Statement): Promise<StatementResult> {
    const route = this.#route(domain)
    const known = this.#bound.get(route.shard)
    const opening = known ?? this.#bind(route, statement)
    const bound = await opening
    const { snapshot, answer } = bound
    if (route.routed !== undefined) requireServed(snapshot, route.routed)
    bound.placementVersion = Math.max(bound.placementVersion, route.routed?.version ?? 0)
    try {
      const isFirst = known === undefined && answer !== undefined
      return await (isFirst ? snapshot.accept(answer) : snapshot.query(statement))
    } catch (error) {
      if (error instanceof NodeLost) this.#lost ??= error
      throw toReadError(error, snapshot.node)
    }
  }

  #bind(route: Route, first: Statement): Promise<Bound> {
    const opening = this.#open(route, first)
    this.#bound.set(route.shard, opening)
    opening.catch(() => {
      if (this.#bound.get(route.shard) === opening) this.#bound.delete(route.shard)
    })
    return opening
  }

  async #open(route: Route, first: Statement): Promise<Bound> {
    const settled = this.#request.level === 'strong' ? await this.#settleAll(route.shard) : undefined
    const proven = await openProven(this.#environment, this.#demand(route), this.#budget, {
      statement: first,
      isOnly: () => this.#endsWithFirst(),
    })
    if (settled !== undefined) this.#requireNode(proven.snapshot, settled.on)
    countCrossRegion(this.#environment, this.#request, proven.snapshot.node)
    const waitedMs = proven.waitedMs + (settled?.waitedMs ?? 0)
    return { ...proven, waitedMs, placementVersion: 0 }
  }

  /** R7: what a primary has prepared that came after the one that was asked is not settled; the function runs again. */
  #requireNode(snapshot: ShardSnapshot, asked: NodeId): void {
    const { node } = snapshot
    if (node.id === asked) return
    snapshot.end()
    this.#lost ??= new NodeLost(node, 'promoted')
    throw toReadError(this.#lost, node)
  }

  /** R7, on the budget of the read. Where the fleet has another primary by now than the one that was asked, that one is read. */
  async #settleAll(name: ShardName): Promise<DecidedSettled> {
    const { settleAll, topology, clock } = this.#environment
    const shard = topology.current().shards.get(name)
    const startedMs = clock.monotonicMs()
    try {
      const settled = await settleAll(name, this.#budget.leftMs)
      this.#budget.spend(settled.waitedMs, clock.monotonicMs() - settled.waitedMs)
      return settled
    } catch (error) {
      this.#budget.spend(clock.monotonicMs() - startedMs, startedMs)
      if (shard === undefined || !(error instanceof HoldfastError)) throw error
      await this.#leaveReplaced(shard.primary, shard.state, error)
      throw toSettlingError(error, shard.primary)
    }
  }

  #demand({ shard, routed }: Route): SnapshotDemand {
    const { level, prefer } = this.#request
    const { directory } = this.#environment
    return {
      tenant: this.#tenant,
      shard,
      // A later statement may ask the same snapshot for another domain: the strictest policy says where it may be (R3).
      placements: directory
        .current()
        .placementsOf(this.#tenant)
        .filter((placed) => placed.shard === shard),
      routed,
      prefer,
      avoid: this.#avoid,
      level: level === 'primary' || level === 'strong' ? 'primary' : level === 'causal' ? 'causal' : 'session',
      frontier: level === 'stale' ? emptyFrontier : this.#frontier,
      closedAtLeast: this.#closedAtLeast(),
      targetOf: this.#environment.targetOf,
    }
  }

  #closedAtLeast(): Hlc | undefined {
    const { maxStaleMs } = this.#request
    if (maxStaleMs === undefined) return undefined
    return hlcFromWallMs(Math.max(0, this.#environment.clock.wallMs() - maxStaleMs))
  }

  #route(domain: DomainName): Route {
    const directory = this.#environment.directory.current()
    const placement = directory.resolve(this.#tenant, domain)
    // Every shard has its own copy of reference data; the tenant's home has one that is near.
    if (directory.domain(domain).class === 'reference') {
      return { shard: directory.home(this.#tenant), routed: undefined }
    }
    requireReadable(placement, this.#environment.topology)
    return { shard: placement.shard, routed: { domain, version: placement.version } }
  }

  #answer<T>(value: T, bound: readonly Bound[]): Answer<T> {
    const isStale = this.#request.level === 'stale'
    return {
      value,
      frontier: isStale ? this.#frontier : bound.reduce(advanceBy, this.#frontier),
      served: bound.map(servedBy),
    }
  }
}

/** A shard without a legal primary is read only where the policy wants that; its rows say nothing of it yet. */
function requireReadable(placement: Placement, topology: ReadEnvironment['topology']): void {
  const state = topology.current().shards.get(placement.shard)?.state
  if (state !== 'lost' || serviceOf(placement, state) !== 'reject') return
  const { tenant, domain, shard, policyVersion } = placement
  throw new HoldfastError('tenant_rejected', `domain ${domain} of tenant ${tenant} is out of service`, {
    hint: 'no legal region can hold its authority now',
    detail: { tenant, domain, shard, policyVersion },
  })
}
