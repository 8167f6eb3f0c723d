import { present } from '../base/assert.ts'
import type { Clock } from '../base/clock.ts'
import type { Metrics } from '../base/metrics.ts'
import type { FleetNode, NodeId, TransactionId } from '../directory/topology.ts'
import type { Hlc } from '../hlc/hlc.ts'
import { hlcFromWallMs, hlcZero } from '../hlc/hlc.ts'
import type { ConnectionTarget } from '../postgres/statement.ts'
import type { Lsn } from '../postgres/lsn.ts'
import type { ConnectionPools } from '../postgres/pools.ts'
import { noteAdoption } from '../transaction/adoption.ts'
import type { ReadParts } from './environment.ts'
import { isLoss, leavingFor } from './read-failure.ts'
import type { Freshness } from './read-store.ts'
import { freshness, readFreshness, requestClosing } from './read-store.ts'

/**
 * Waiting for nodes to become fresh.
 *
 * Everyone who waits for a node shares one loop over one connection: a thousand readers behind the same write cost the
 * node one small query every few milliseconds, not a thousand. What the loop sees only says when it is worth asking for
 * a proof again. It is remembered for a while to choose among equal nodes, and it never justifies an answer.
 */

/** What a reader waits for. */
export type Awaited =
  | { readonly what: 'position'; readonly lsn: Lsn }
  | { readonly what: 'closed'; readonly timestamp: Hlc }
  | { readonly what: 'transactions'; readonly transactionIds: readonly TransactionId[]; readonly orClosed: Hlc }
  /** Something that the watch cannot see: worth asking again whenever the node has applied more than this. */
  | { readonly what: 'progress'; readonly beyond: Lsn }

export type WaitEnd = 'met' | 'late' | 'lost'

/** What was last seen of a node. */
export interface Sighting {
  /** Undefined when it is too long ago. */
  readonly freshness: Freshness | undefined
  /** When it was last seen lost, in monotonic milliseconds; undefined once it has answered since. */
  readonly lostAtMs: number | undefined
}

interface Waiter {
  readonly awaited: Awaited
  readonly end: (end: WaitEnd) => void
}

/** Between looks at a node while someone waits for it: about what a local round trip and a commit take. */
const lookEveryMs = 2
const answerWithinMs = 1_000

/**
 * A node that was seen behind is passed over, so nobody sees it any more: were that remembered, one that was late for a moment
 * would lose the sessions of its region to the primary for good.
 */
const rememberedForMs = 1_000

const neverSeen: Sighting = { freshness: undefined, lostAtMs: undefined }

export class FreshnessWatch {
  readonly #pools: ConnectionPools
  readonly #targetOf: (node: FleetNode) => ConnectionTarget
  readonly #clock: Clock
  readonly #metrics: Metrics
  readonly #waiters = new Map<NodeId, Set<Waiter>>()
  readonly #sightings = new Map<NodeId, Sighting & { readonly seenAtMs: number }>()
  readonly #lateAtMs = new Map<NodeId, number>()
  /** The greatest timestamp that a primary was asked to close. */
  readonly #requested = new Map<NodeId, Hlc>()
  readonly #looks = new Map<NodeId, Promise<Freshness | 'lost' | 'unknown'>>()

  constructor({ pools, targetOf, clock, metrics }: Pick<ReadParts, 'pools' | 'targetOf' | 'clock' | 'metrics'>) {
    this.#pools = pools
    this.#targetOf = targetOf
    this.#clock = clock
    this.#metrics = metrics
  }

  sightingOf(node: NodeId): Sighting {
    const seen = this.#sightings.get(node)
    if (seen === undefined) return neverSeen
    const isOld = this.#clock.monotonicMs() - seen.seenAtMs > rememberedForMs
    return isOld ? { freshness: undefined, lostAtMs: seen.lostAtMs } : seen
  }

  noteFresh(node: NodeId, seen: Freshness): void {
    this.#sightings.set(node, { freshness: seen, lostAtMs: undefined, seenAtMs: this.#clock.monotonicMs() })
  }

  /**
   * Of a node that has answered a reader. His session goes on from what it had received, and that will be replayed by the time it is
   * asked again; unless somebody has waited for it in vain, as while its replay stands still.
   */
  noteProven(node: NodeId, { positionAfter, ...seen }: Freshness & { readonly positionAfter: Lsn }): void {
    const lateForMs = this.#clock.monotonicMs() - (this.#lateAtMs.get(node) ?? Number.NEGATIVE_INFINITY)
    this.noteFresh(node, lateForMs > rememberedForMs ? { ...seen, replayed: positionAfter } : seen)
  }

  /** Somebody who waited for it went on without it. */
  noteLate(node: NodeId): void {
    this.#lateAtMs.set(node, this.#clock.monotonicMs())
  }

  noteLost(node: NodeId): void {
    const nowMs = this.#clock.monotonicMs()
    this.#sightings.set(node, { seenAtMs: nowMs, ...this.sightingOf(node), lostAtMs: nowMs })
  }

  /** Looks whether a node answers, once for all who ask meanwhile. Never rejects. */
  look(node: FleetNode): Promise<Freshness | 'lost' | 'unknown'> {
    const known = this.#looks.get(node.id)
    if (known !== undefined) return known
    const looking = this.#ask(node, []).finally(() => this.#looks.delete(node.id))
    this.#looks.set(node.id, looking)
    return looking
  }

  /** A node that was lost is looked at, and not tried by a reader: nobody waits for it. */
  lookIfLost(node: FleetNode, afterMs: number): void {
    const { lostAtMs } = this.sightingOf(node.id)
    if (lostAtMs !== undefined && this.#clock.monotonicMs() - lostAtMs >= afterMs) void this.look(node)
  }

  /** How many loops are running: one for each node that someone waits for. */
  get watchedNodes(): number {
    return this.#waiters.size
  }

  /** Resolves when the node seems to have what is awaited, after `withinMs`, or when the node is lost. */
  until(node: FleetNode, awaited: Awaited, withinMs: number): Promise<WaitEnd> {
    return new Promise((resolve) => {
      const timer = new AbortController()
      const waiters = this.#waitersFor(node)
      const end = (how: WaitEnd) => {
        waiters.delete(waiter)
        timer.abort()
        resolve(how)
      }
      const waiter = { awaited, end }
      waiters.add(waiter)
      this.#clock.sleep(withinMs, timer.signal).then(
        () => {
          this.noteLate(node.id)
          end('late')
        },
        () => undefined,
      )
    })
  }

  /** Has a timestamp closed. Asked once, however many wait for it; nobody waits for the answer. */
  requestClosing(primary: FleetNode, timestamp: Hlc): void {
    if (timestamp <= (this.#requested.get(primary.id) ?? hlcZero)) return
    this.#requested.set(primary.id, timestamp)
    const request = requestClosing(timestamp, hlcFromWallMs(this.#clock.wallMs()))
    this.#pools.flight(this.#targetOf(primary), [request], answerWithinMs).then(
      ([outcome]) => {
        noteAdoption(this.#metrics, primary.shard, outcome)
        if (outcome?.ok !== true) this.#requested.delete(primary.id)
      },
      () => this.#requested.delete(primary.id),
    )
  }

  /** Those who wait for a node; the first of them starts the loop that they share. */
  #waitersFor(node: FleetNode): Set<Waiter> {
    const known = this.#waiters.get(node.id)
    if (known !== undefined) return known
    const waiters = new Set<Waiter>()
    this.#waiters.set(node.id, waiters)
    void this.#lookFor(node, waiters)
    return waiters
  }

  /** Looks until nobody waits any more. Never rejects. */
  async #lookFor(node: FleetNode, waiters: ReadonlySet<Waiter>): Promise<void> {
    do {
      const asked = [...waiters].flatMap(({ awaited }) =>
        awaited.what === 'transactions' ? awaited.transactionIds : [],
      )
      const seen = await this.#ask(node, asked)
      for (const { awaited, end } of waiters) {
        if (seen === 'lost') end('lost')
        else if (seen !== 'unknown' && isMet(awaited, seen)) end('met')
      }
      if (waiters.size > 0) await this.#clock.sleep(lookEveryMs)
    } while (waiters.size > 0)
    this.#waiters.delete(node.id)
  }

  /** Never rejects. A look that replay cancelled, or for which no connection was free, says nothing. */
  async #ask(node: FleetNode, asked: readonly TransactionId[]): Promise<Freshness | 'lost' | 'unknown'> {
    try {
      const statements = [freshness([...new Set(asked)])]
      const [outcome] = await this.#pools.flight(this.#targetOf(node), statements, answerWithinMs, answerWithinMs)
      const seen = readFreshness(present(outcome, 'one outcome a statement'))
      this.noteFresh(node.id, seen)
      return seen
    } catch (error) {
      const why = leavingFor(error, 'opening')
      if (why !== undefined && !isLoss(why)) return 'unknown'
      this.noteLost(node.id)
      return 'lost'
    }
  }
}

export function isMet(awaited: Awaited, seen: Freshness): boolean {
  switch (awaited.what) {
    case 'position':
      return seen.replayed >= awaited.lsn
    case 'closed':
      return seen.closedTimestamp >= awaited.timestamp
    case 'transactions':
      return seen.closedTimestamp >= awaited.orClosed || awaited.transactionIds.every((id) => seen.visible.has(id))
    case 'progress':
      return seen.replayed > awaited.beyond
  }
}
