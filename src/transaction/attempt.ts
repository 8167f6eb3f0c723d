import { present } from '../base/assert.ts'
import { HoldfastError } from '../base/errors.ts'
import { Underway } from '../base/underway.ts'
import type { Placement } from '../directory/directory.ts'
import type { ShardName, TransactionId } from '../directory/topology.ts'
import { hlcZero } from '../hlc/hlc.ts'
import { requireAllowed, requireAllowedInBatch, toStatement } from './caller-statement.ts'
import { commitTransaction } from './coordinator.ts'
import { EmittedEvents } from './emitted-events.ts'
import type { TransactionEnvironment } from './environment.ts'
import { keepValue } from './idempotency.ts'
import { PendingBranches } from './pending-branches.ts'
import { Refusals } from './refusals.ts'
import { homePlacement, openShard, requireDurable, requireInService } from './routing.ts'
import { ShardTransaction } from './shard-transaction.ts'
import { toHoldfastError } from './sql-errors.ts'
import type { FirstUse } from './transaction-store.ts'
import type {
  BatchStatement,
  Committed,
  DomainQuery,
  QueryResult,
  TakenRequest,
  TouchedShard,
  Tx,
} from './transaction.ts'

/** How one attempt ended. */
export type AttemptEnd<T> =
  | { readonly kind: 'committed'; readonly committed: Committed<T> }
  | { readonly kind: 'used before'; readonly first: FirstUse; readonly home: ShardName }
  /** Nothing was written. `error` is what the caller gets when it is not tried again. */
  | { readonly kind: 'failed'; readonly error: unknown; readonly mayRepeat: HoldfastError | undefined }
  | { readonly kind: 'ambiguous'; readonly error: HoldfastError }

/** Ends the caller's function early; what it makes of it is of no interest any more. */
class CutShort extends Error {}

/**
 * One run of the caller's function, and what it touched: home, and a participant for every other shard.
 *
 *   A1  Home is opened before any participant is touched: with the clock that participants are told, and with the
 *       idempotency key claimed. So nobody who waits for another's key holds a connection that the other may need.
 *   A2  Every shard's part is rolled back or decided; a statement that the function left behind is waited for first.
 *   A3  What is refused before it is sent dooms the attempt, as a statement that fails dooms its transaction: whether the
 *       function waits for it, swallows it or left it behind. No savepoint takes it back.
 */
export class Attempt {
  readonly transactionId: TransactionId
  readonly home: ShardTransaction
  readonly #environment: TransactionEnvironment
  readonly #request: TakenRequest
  readonly #trustsBatches: boolean
  readonly #participants = new Map<ShardName, ShardTransaction>()
  readonly #events = new EmittedEvents()
  readonly #underway = new Underway()
  readonly #refusals = new Refusals((refusal) => this.#tellTooLate(refusal))
  readonly #pending: PendingBranches
  #ended = false

  /** Throws what routing refuses: `unknown_tenant`, `shard_fenced`, `tenant_rejected`. */
  constructor(
    environment: TransactionEnvironment,
    request: TakenRequest,
    transactionId: TransactionId,
    trustsBatches: boolean,
  ) {
    this.#environment = environment
    this.#request = request
    this.#trustsBatches = trustsBatches
    this.#pending = new PendingBranches(environment, request)
    this.transactionId = transactionId
    const key = request.idempotencyKey ?? null
    const placement = homePlacement(environment, request.tenant)
    this.home = new ShardTransaction(environment, {
      shard: openShard(environment, placement),
      tenant: request.tenant,
      transactionId,
      isolation: request.isolation ?? 'read committed',
      home: {
        frontier: request.observe ?? hlcZero,
        key,
        requestHash: request.requestHash,
      },
    })
    // Even where no domain at home is touched: the record belongs where the tenant's home is now.
    this.home.placements.set(placement.domain, placement.version)
  }

  async run<T>(body: (tx: Tx) => Promise<T>): Promise<AttemptEnd<T>> {
    const { onStep } = this.#environment
    await onStep('local begin', { transactionId: this.transactionId, shard: this.home.shard.name })
    let result: { readonly value: T } | { readonly error: unknown }
    try {
      result = { value: await body(this.#tx()) }
    } catch (error) {
      result = { error }
    }
    this.#ended = true
    await this.#underway.ended()
    const looking = [...(this.home.batch.length > 0 ? [this.home] : []), ...this.#participants.values()]
    if ('value' in result && this.#refusals.first === undefined && looking.length > 0) {
      try {
        await this.#reach(...looking)
      } catch (error) {
        result = { error }
      }
    }
    const first = this.home.opened?.firstUse
    if (first !== undefined) return this.#abandon({ kind: 'used before', first, home: this.home.shard.name })
    const doom = this.#doom()
    if ('error' in result) {
      const own = result.error instanceof HoldfastError ? result.error : undefined
      return this.#abandon({ kind: 'failed', error: result.error, mayRepeat: doom ?? own })
    }
    if (doom !== undefined) return this.#abandon({ kind: 'failed', error: doom, mayRepeat: doom })
    return this.#commit(result.value)
  }

  /** Why it can only be abandoned. A key that was used before is asked for first: who is cut short by it was refused nothing. */
  #doom(): HoldfastError | undefined {
    const dooms = [this.home, ...this.#participants.values()].map((part) => part.doom)
    // What a server said first: what was refused behind it may be the end of that, and is refused again where it is not.
    return dooms.find((found) => found !== undefined) ?? this.#refusals.first
  }

  async #commit<T>(result: T): Promise<AttemptEnd<T>> {
    let kept: { readonly value: T; readonly json: string | null }
    try {
      kept = this.#request.idempotencyKey === undefined ? { value: result, json: null } : keepValue(result)
    } catch (error) {
      return this.#abandon({ kind: 'failed', error, mayRepeat: undefined })
    }
    const { tenant, action, subject, actor } = this.#request
    const parts = [...this.#participants.values()]
    const readers = parts.filter((part) => this.#readsOnly(part))
    const writers = parts.filter((part) => !readers.includes(part))
    const end = await commitTransaction(this.#environment, {
      transactionId: this.transactionId,
      business: { tenant, action, subject, actor },
      home: this.home,
      participants: writers,
      readers,
      frontier: this.#request.observe ?? hlcZero,
      value: kept.json,
      events: this.#events.json,
      lastRefusal: () => this.#refusals.decide(),
    })
    const first = this.home.opened?.firstUse
    if (end.kind === 'ambiguous') return { kind: 'ambiguous', error: end.failure }
    if (end.kind === 'aborted') {
      if (first !== undefined) return { kind: 'used before', first, home: this.home.shard.name }
      return { kind: 'failed', error: end.failure, mayRepeat: end.failure }
    }
    const isGlobal = writers.length > 0
    if (isGlobal) this.#environment.metrics.observe('global_txn_participants', writers.length)
    await this.#environment.onStep(isGlobal ? 'global reply' : 'local reply', this.#where())
    const positionOf = ({ shard }: ShardTransaction) =>
      present(end.prepared.get(shard.name), 'a participant that voted told its position')
    const pending = { transactionId: this.transactionId, timestamp: end.timestamp }
    const participants = [
      ...writers.map((part) => ({ ...touched(part, 'participant'), position: positionOf(part), pending })),
      ...readers.map((part) => ({ ...touched(part, 'reader'), position: positionOf(part) })),
    ]
    return {
      kind: 'committed',
      committed: {
        value: kept.value,
        transactionId: this.transactionId,
        commitTimestamp: end.timestamp,
        shards: [{ ...touched(this.home, 'home'), position: end.position }, ...participants],
        replayed: false,
      },
    }
  }

  /** Nothing that was awaited left a trace, and nothing that is batched will, as far as it can be told (Q6). */
  #readsOnly(part: ShardTransaction): boolean {
    if (!part.hasOnlyRead || part.batch.length === 0) return part.hasOnlyRead
    return this.#trustsBatches && this.#environment.readingBatches.looksLikeReading(part.batch)
  }

  #abandon<E>(end: E): E {
    for (const part of [this.home, ...this.#participants.values()]) {
      this.#environment.background.run(() => part.rollBack())
    }
    return end
  }

  #tx(): Tx {
    return {
      transactionId: this.transactionId,
      query: (domain, text, values) => this.#query(domain, text, values),
      batch: (domain, statements) => this.#orRefuse(() => this.#batch(domain, statements)),
      emit: (name, payload) => this.#orRefuse(() => this.#emit(name, payload)),
      client: (domain) => ({ query: (query, values) => this.#query(domain, query, values) }),
    }
  }

  /** A3. */
  #orRefuse<T>(take: () => T): T {
    try {
      return take()
    } catch (error) {
      throw this.#refuse(error)
    }
  }

  #refuse(error: unknown): unknown {
    this.#refusals.note(toHoldfastError(error, this.#where()))
    return error
  }

  #tellTooLate(refusal: HoldfastError): void {
    const { action, subject } = this.#request
    const which = `transaction ${this.transactionId} (${action} of ${subject})`
    this.#environment.background.run(() =>
      Promise.reject(new Error(`a call of ${which} came when its commit had been sent: ${refusal.message}`)),
    )
  }

  #query<R>(domain: string, query: string | DomainQuery, values?: readonly unknown[]): Promise<QueryResult<R>> {
    return this.#underway.begin(this.#send<R>(domain, query, values))
  }

  async #send<R>(
    domain: string,
    query: string | DomainQuery,
    values: readonly unknown[] | undefined,
  ): Promise<QueryResult<R>> {
    const { part, statement } = this.#orRefuse(() => {
      this.#requireOpen()
      const taken = toStatement(query, values)
      requireAllowed(taken.text)
      return { part: this.#route(domain), statement: taken }
    })
    await this.#reach(part)
    const { rows, rowCount, fields, tag } = await part.query(statement)
    this.#requireFirstUse()
    await this.#environment.onStep('local user write', { ...this.#where(), shard: part.shard.name })
    return { rows: rows as R[], rowCount, fields, command: tag }
  }

  #batch(domain: string, statements: readonly BatchStatement[]): void {
    this.#requireOpen()
    const part = this.#route(domain)
    for (const [text, values, expect] of statements) {
      requireAllowedInBatch(text)
      part.batch.push({ statement: toStatement(text, values), rows: expect?.rows })
    }
  }

  #emit(name: string, payload: unknown): void {
    this.#requireOpen()
    this.#events.emit(name, payload)
  }

  /** The part that a domain's statements belong to; made when it is the first of its shard. */
  #route(domain: string): ShardTransaction {
    const directory = this.#environment.directory.current()
    const { tenant } = this.#request
    const placement = directory.resolve(tenant, domain)
    // Every shard has its own copy of reference data, which nobody may write here.
    if (directory.domain(domain).class === 'reference') return this.home
    requireInService(placement)
    const part = placement.shard === this.home.shard.name ? this.home : this.#participant(placement)
    part.placements.set(domain, placement.version)
    return part
  }

  #participant(placement: Placement): ShardTransaction {
    const { shard: name } = placement
    const known = this.#participants.get(name)
    if (known !== undefined) return known
    const shard = openShard(this.#environment, placement)
    requireDurable(this.home.shard)
    requireDurable(shard)
    const part = new ShardTransaction(this.#environment, {
      shard,
      tenant: this.#request.tenant,
      transactionId: this.transactionId,
      isolation: this.#request.isolation ?? 'read committed',
      home: null,
    })
    this.#participants.set(name, part)
    const { region, metrics } = this.#environment
    if (shard.primary.region !== region) {
      metrics.count('cross_region_fanout_total', { from: region, to: shard.primary.region, route: '' })
    }
    return part
  }

  /** Makes these parts ready for statements: home is opened first (A1), and what the caller must see there is settled. */
  async #reach(...parts: readonly ShardTransaction[]): Promise<void> {
    try {
      if (parts.some((part) => part !== this.home)) {
        await this.home.open()
        this.#requireFirstUse()
      }
      await Promise.all(parts.map(({ shard }) => this.#pending.settle(shard.name)))
    } catch (error) {
      throw this.#refuse(error)
    }
  }

  #requireOpen(): void {
    if (this.#ended) throw new HoldfastError('argument_invalid', `transaction ${this.transactionId} has ended`)
  }

  #requireFirstUse(): void {
    if (this.home.opened?.firstUse !== undefined) throw new CutShort('the idempotency key was used before')
  }

  #where() {
    return { transactionId: this.transactionId, shard: this.home.shard.name }
  }
}

function touched(part: ShardTransaction, role: TouchedShard['role']) {
  const { name, historyId, epoch } = part.shard
  return { shard: name, role, historyId, epoch, placementVersion: Math.max(0, ...part.placements.values()) }
}
