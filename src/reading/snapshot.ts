import { present } from '../base/assert.ts'
import { HoldfastError, isHoldfastError } from '../base/errors.ts'
import { Underway } from '../base/underway.ts'
import { endsWithin } from '../base/within.ts'
import type { Placement } from '../directory/directory.ts'
import { tenantHome } from '../directory/directory.ts'
import type { FleetNode, NodeId, ShardName, TenantName } from '../directory/topology.ts'
import type { Hlc } from '../hlc/hlc.ts'
import type { ConnectionTarget, Statement, StatementResult } from '../postgres/statement.ts'
import type { Frontier } from '../session/frontier.ts'
import { emptyFrontier } from '../session/frontier.ts'
import type { QueryResult } from '../transaction/transaction.ts'
import { readHasEnded, requireAllowed, toQueryResult, toStatement } from './caller-statement.ts'
import { countCrossRegion } from './cross-region.ts'
import type { ReadEnvironment } from './environment.ts'
import type { RoutedPlacement } from './judgement.ts'
import type { SnapshotDemand } from './proven-snapshot.ts'
import { openProven } from './proven-snapshot.ts'
import { toReadError } from './read-failure.ts'
import type { Answer, Read } from './reading.ts'
import * as store from './read-store.ts'
import type { GlobalTransaction } from './read-store.ts'
import type { Declared } from './routes.ts'
import { requireDeclared } from './routes.ts'
import type { Bound, Served } from './served.ts'
import { advanceBy, requireServed, servedBy } from './served.ts'
import type { ShardSnapshot } from './shard-snapshot.ts'
import type { Fractures, SnapshotView } from './snapshot-rounds.ts'
import { findFractures, isBranchOn, leastClosed } from './snapshot-rounds.ts'
import type { Waiting } from './wait-budget.ts'
import { requireWait, WaitBudget, waitMsOf } from './wait-budget.ts'

/**
 * Reads several shards as of one moment: every global transaction is shown by all of its shards that are asked, or by
 * none. On primaries. Nothing is released before the snapshots agree (`snapshot-rounds.ts`); one that was taken too
 * early is taken again, after the branch that it lacks was settled.
 */
export interface SnapshotRequest extends Pick<Declared, 'route'> {
  readonly tenant: string
  readonly domains: readonly string[]
  readonly frontier?: Frontier | undefined
  /**
   * How long primaries may take to show what the frontier demands, and the branches that others wrote to be settled. When left out
   * as long as for a `strong` read.
   */
  readonly waitMs?: number | undefined
}

/** Snapshots are taken again so often before the contention is told. */
const roundsMax = 3

/**
 * Throws `snapshot_contended` (safe to retry), `unknown_domain` for a domain that was not declared, and what `read`
 * throws. The function runs once, when the snapshots agree.
 */
export async function snapshot<T>(
  environment: ReadEnvironment,
  request: SnapshotRequest,
  body: (read: Read) => Promise<T>,
): Promise<Answer<T>> {
  requireDomains(request.domains)
  requireDeclared(request)
  requireWait(request)
  const frontier = request.frontier ?? emptyFrontier
  const budget = budgetOf(environment, request)
  const taken = await takeForTenant(environment, request, budget).catch(async (error: unknown) => {
    if (!isHoldfastError(error, 'placement_stale')) throw error
    await environment.directory.refresh()
    return takeForTenant(environment, request, budget)
  })
  try {
    const bound = [...taken.bound.values()]
    // Its domains are declared, so wherever they lie it reaches there on purpose.
    for (const { snapshot: one } of bound) countCrossRegion(environment, { route: request.route }, one.node)
    const value = await untilEnded((ask) => body(readerOf(taken, request.domains, ask)))
    return { value, frontier: bound.reduce(advanceBy, frontier), served: bound.map(servedBy) }
  } finally {
    endAll(taken.bound)
  }
}

interface TenantSnapshots {
  readonly bound: Snapshots
  readonly placements: readonly Placement[]
}

async function takeForTenant(
  environment: ReadEnvironment,
  request: SnapshotRequest,
  budget: WaitBudget,
): Promise<TenantSnapshots> {
  const { directory, targetOf } = environment
  const { frontier = emptyFrontier } = request
  const tenant = request.tenant as TenantName
  const placements = request.domains.map((domain) => directory.current().resolve(tenant, domain))
  const shards = [...new Set(placements.map(({ shard }) => shard))]
  const demands = shards.map((shard) => {
    const placement = placements.find((placed) => placed.shard === shard)
    return { ...demandOn(shard), tenant, frontier, routed: placement && routeOf(placement), targetOf }
  })
  const bound = await takeSnapshots(environment, demands, budget)
  try {
    for (const placement of placements) {
      const on = snapshotOn(bound, placement.shard)
      requireServed(on.snapshot, routeOf(placement))
      on.placementVersion = Math.max(on.placementVersion, placement.version)
    }
    return { bound, placements }
  } catch (error) {
    endAll(bound)
    throw error
  }
}

/** Sends a statement of the caller, while his function runs. */
type Ask = <R>(send: () => Promise<R>) => Promise<R>

/** R8: what the function left behind is waited for, and nothing is sent behind the end of the transactions that it belongs to. */
async function untilEnded<T>(body: (ask: Ask) => Promise<T>): Promise<T> {
  const underway = new Underway()
  let ended = false
  try {
    return await body((send) => underway.begin(ended ? Promise.reject(readHasEnded()) : send()))
  } finally {
    ended = true
    await underway.ended()
  }
}

function readerOf({ bound, placements }: TenantSnapshots, domains: readonly string[], ask: Ask): Read {
  const send = async <R>(domain: string, statement: Statement) => {
    const placement = placements.find((placed) => placed.domain === domain)
    if (placement === undefined) {
      throw new HoldfastError('unknown_domain', `domain ${domain} was not declared for the snapshot`, {
        hint: `declared are ${domains.join(', ')}`,
      })
    }
    requireAllowed(statement.text)
    return toQueryResult<R>(await queryOn(bound, placement.shard, statement))
  }
  return {
    query: (domain, text, values) => ask(() => send(domain, toStatement(text, values))),
    client: (domain) => ({ query: (query, values) => ask(() => send(domain, toStatement(query, values))) }),
  }
}

export interface OperatorSnapshotRequest {
  readonly domains: readonly string[]
  /** Where an operator's role reaches a node: one that row security does not hold. */
  readonly targetOf: (node: FleetNode) => ConnectionTarget
}

/** The rows of all tenants. Statements name the shard, since a domain may lie on several. */
export interface OperatorRead {
  /** The shards that are the source of truth for a declared domain, for at least one tenant. */
  shardsOf(domain: string): readonly ShardName[]
  query<R = Record<string, unknown>>(
    shard: ShardName,
    text: string,
    values?: readonly unknown[],
  ): Promise<QueryResult<R>>
}

export interface OperatorAnswer<T> {
  readonly value: T
  readonly served: readonly Served[]
}

/**
 * The same over all tenants, for invariants and other checks of an operator: in transactions that cannot write, under
 * the role of the target, with no tenant bound. Throws what `snapshot` throws.
 */
export async function snapshotAsOperator<T>(
  environment: ReadEnvironment,
  request: OperatorSnapshotRequest,
  body: (read: OperatorRead) => Promise<T>,
): Promise<OperatorAnswer<T>> {
  requireDomains(request.domains)
  const shardsOf = new Map(request.domains.map((domain) => [domain, authoritativeShards(environment, domain)]))
  const { targetOf } = request
  const demands = [...new Set([...shardsOf.values()].flat())].map((shard) => ({ ...demandOn(shard), targetOf }))
  const bound = await takeSnapshots(environment, demands, budgetOf(environment, {}))
  try {
    const value = await untilEnded((ask) =>
      body({
        shardsOf: (domain) => present(shardsOf.get(domain), `domain ${domain} is declared`),
        query: <R>(shard: ShardName, text: string, values?: readonly unknown[]) =>
          ask(async () => toQueryResult<R>(await queryOn(bound, shard, toStatement(text, values)))),
      }),
    )
    return { value, served: [...bound.values()].map(servedBy) }
  } finally {
    endAll(bound)
  }
}

function authoritativeShards({ directory }: ReadEnvironment, domain: string): ShardName[] {
  const { placement, name } = directory.current().domain(domain)
  const placed = directory
    .current()
    .placements()
    .filter((one) => one.domain === name)
  const pinned = placement === tenantHome ? [] : [placement]
  return [...new Set([...pinned, ...placed.map(({ shard }) => shard)])]
}

type Snapshots = Map<ShardName, Bound>

/** What every shard of a snapshot is asked for: its primary, and what a session demands, if there is one. */
function demandOn(shard: ShardName) {
  return {
    shard,
    tenant: null,
    frontier: emptyFrontier,
    // Primaries are asked, wherever they are.
    placements: [],
    routed: undefined,
    level: 'primary',
    closedAtLeast: undefined,
    prefer: undefined,
    avoid: new Set<NodeId>(),
  } as const
}

function routeOf({ domain, version }: Placement): RoutedPlacement {
  return { domain, version }
}

async function takeSnapshots(
  environment: ReadEnvironment,
  demands: readonly SnapshotDemand[],
  budget: WaitBudget,
): Promise<Snapshots> {
  const bound: Snapshots = new Map()
  const views = new Map<ShardName, SnapshotView>()
  const open = async (demand: SnapshotDemand) => {
    bound.get(demand.shard)?.snapshot.end()
    bound.delete(demand.shard)
    bound.set(demand.shard, { ...(await openProven(environment, demand, budget, undefined)), placementVersion: 0 })
  }
  try {
    await allOf(demands.map(open))
    const above = leastClosed([...bound.values()].map(({ snapshot: { proof } }) => proof.closedTimestamp))
    const list = async ([shard, { snapshot: taken }]: [ShardName, Bound]) => {
      const shown = await globalTransactionsIn(taken, above)
      views.set(shard, { closedTimestamp: taken.proof.closedTimestamp, shown })
    }
    await allOf([...bound].map(list))
    for (let rounds = 1; ; rounds += 1) {
      const fractures = findFractures(views)
      if (fractures.size === 0) return bound
      if (rounds === roundsMax) throw contended(fractures)
      const again = demands.filter(({ shard }) => fractures.has(shard))
      await settleWithin(environment, again, fractures, budget)
      await allOf(again.map(open))
      await allOf([...bound].filter(([shard]) => fractures.has(shard)).map(list))
    }
  } catch (error) {
    endAll(bound)
    throw error
  }
}

async function globalTransactionsIn(taken: ShardSnapshot, above: Hlc): Promise<GlobalTransaction[]> {
  try {
    return store.readGlobalTransactions(await taken.ask(store.visibleGlobalTransactions(above)))
  } catch (error) {
    throw toReadError(error, taken.node)
  }
}

/** What is not settled in time goes on without this snapshot, which is then taken again as it is. */
async function settleWithin(
  { settle, clock }: ReadEnvironment,
  on: readonly { readonly shard: ShardName }[],
  fractures: Fractures,
  budget: WaitBudget,
): Promise<void> {
  const settled = on.flatMap(({ shard }) =>
    (fractures.get(shard) ?? [])
      .filter((transaction) => isBranchOn(shard, transaction))
      .map(({ transactionId }) => settle(shard, transactionId)),
  )
  if (settled.length === 0) return
  const { leftMs } = budget
  const ended = budget.begin()
  try {
    await endsWithin(clock, allOf(settled), leftMs)
  } finally {
    ended()
  }
}

/** A branch of anybody may have to be settled for it, as for a `strong` read. */
function budgetOf(environment: ReadEnvironment, { waitMs, frontier }: Omit<Waiting, 'level'>): WaitBudget {
  return new WaitBudget(waitMsOf(environment, { waitMs, frontier, level: 'strong' }), environment.clock)
}

function contended(fractures: Fractures): HoldfastError {
  const shards = [...fractures.keys()]
  const transactionIds = [...fractures.values()].flat().map(({ transactionId }) => transactionId)
  return new HoldfastError('snapshot_contended', `the snapshots of ${shards.join(', ')} do not show the same`, {
    hint: 'try again; a branch that stays unsettled is named in the detail',
    detail: { shards, transactionIds },
  })
}

async function queryOn(bound: Snapshots, shard: ShardName, statement: Statement): Promise<StatementResult> {
  const { snapshot: taken } = snapshotOn(bound, shard)
  try {
    return await taken.query(statement)
  } catch (error) {
    throw toReadError(error, taken.node)
  }
}

function snapshotOn(bound: Snapshots, shard: ShardName): Bound {
  const found = bound.get(shard)
  if (found !== undefined) return found
  throw new HoldfastError('unknown_shard', `shard ${shard} is not part of the snapshot`, { detail: { shard } })
}

function endAll(bound: Snapshots): void {
  for (const { snapshot: taken } of bound.values()) taken.end()
}

function requireDomains(domains: readonly string[]): void {
  if (domains.length === 0) throw new HoldfastError('argument_invalid', 'a snapshot names at least one domain')
}

/** Waits for all of them, then throws the first failure: nothing is left on its way. */
async function allOf(all: readonly Promise<void>[]): Promise<void> {
  const ended = await Promise.allSettled(all)
  for (const one of ended) if (one.status === 'rejected') throw one.reason
}
