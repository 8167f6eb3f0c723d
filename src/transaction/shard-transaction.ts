import { present } from '../base/assert.ts'
import { HoldfastError } from '../base/errors.ts'
import type { ShardTopology, TransactionId } from '../directory/topology.ts'
import type { Hlc } from '../hlc/hlc.ts'
import { hlcFromWallMs } from '../hlc/hlc.ts'
import type { Connection } from '../postgres/connection.ts'
import type { Statement, StatementOutcome, StatementResult } from '../postgres/statement.ts'
import { ConnectionLost } from '../postgres/failure.ts'
import { noteAdoption } from './adoption.ts'
import type { BatchItem } from './batch.ts'
import type { TransactionEnvironment } from './environment.ts'
import { writableOn } from './routing.ts'
import { toHoldfastError } from './sql-errors.ts'
import type { Opening } from './transaction-store.ts'
import * as store from './transaction-store.ts'
import type { Isolation } from './transaction.ts'

/**
 * The PostgreSQL transaction of one attempt on one shard: home's own, or a participant's branch.
 *
 * The opening (clock, BEGIN, binding, role) travels with whatever is sent first. It is written before the statement
 * and answered before it; nobody waits in between. What it is given has a form on the wire (`caller-statement.ts`).
 */
export interface ShardTransactionOptions {
  readonly shard: ShardTopology
  readonly tenant: string
  readonly transactionId: TransactionId
  readonly isolation: Isolation
  /** Of home: the caller's frontier, and the key that it claims. */
  readonly home: { readonly frontier: Hlc; readonly key: string | null; readonly requestHash: Uint8Array | null } | null
}

export interface LastFlight {
  /** Of an opening that travelled along. A refused look at the clock does not keep the rest from taking place. */
  readonly openingFailure: HoldfastError | undefined
  /** Of what was asked for, without the opening. */
  readonly outcomes: readonly StatementOutcome[]
  /** Of what stood behind its sync point. */
  readonly outcomesBehind: readonly StatementOutcome[]
}

export class ShardTransaction {
  readonly shard: ShardTopology
  /** Domain to version, of what this transaction was routed here by. */
  readonly placements = new Map<string, number>()
  readonly batch: BatchItem[] = []
  readonly #environment: TransactionEnvironment
  readonly #options: ShardTransactionOptions
  #connecting: Promise<Connection> | undefined
  #connection: Connection | undefined
  #leavesTrace = false
  #opening: Promise<Opening> | undefined
  #opened: Opening | undefined
  #failure: HoldfastError | undefined

  constructor(environment: TransactionEnvironment, options: ShardTransactionOptions) {
    this.shard = options.shard
    this.#environment = environment
    this.#options = options
  }

  /** Why this transaction can only be rolled back; undefined while it is sound. Asked when nothing is on its way. */
  get doom(): HoldfastError | undefined {
    // Nothing was sent that could have left a mark.
    if (this.#opening === undefined) return this.#failure
    const status = this.#connection?.status ?? 'closed'
    if (this.#opened !== undefined && status === 'open') return undefined
    if (this.#failure !== undefined) return this.#failure
    // Its backend ended between two statements: nobody was told, and nothing of it is left.
    if (status === 'closed') return this.#fail(new ConnectionLost('the connection ended before the commit', true))
    return this.#fail(new Error(`the transaction is ${status}`))
  }

  get opened(): Opening | undefined {
    return this.#opened
  }

  /** The idempotency key that home's part claims. */
  get key(): string | null {
    return this.#options.home?.key ?? null
  }

  /** What was awaited at this participant read and did nothing else. */
  get hasOnlyRead(): boolean {
    return !this.#leavesTrace && this.#isTraced()
  }

  /** The process that serves it, to ask whether it still lives. */
  get serverProcessId(): number | undefined {
    return this.#connection?.serverProcessId
  }

  /** Opens it in a flight of its own, unless it is open or being opened. */
  async open(): Promise<Opening> {
    return this.#open(await this.#connect())
  }

  /** One awaited statement of the caller. Throws a `HoldfastError`. */
  async query(statement: Statement): Promise<StatementResult> {
    const connection = await this.#connect()
    const [opening, answer] =
      this.#opening === undefined
        ? this.#openWith(connection, statement)
        : [this.#opening, this.#ask(connection, statement)]
    const [opened, answered] = await Promise.allSettled([opening, answer])
    if (opened.status === 'rejected') throw opened.reason
    if (answered.status === 'rejected') throw this.#fail(answered.reason)
    const outcome = present(answered.value[0], 'one outcome a statement')
    const trace = answered.value[1]
    // Once it has left one it stays, whatever is rolled back.
    this.#leavesTrace ||= trace === undefined || !trace.ok || store.readTrace(trace)
    if (!outcome.ok) throw this.#fail(outcome.error)
    this.#failure = undefined
    return outcome
  }

  /** The opening and the first statement, in one flight; a refused opening keeps the statement from being run. */
  #openWith(connection: Connection, statement: Statement): [Promise<Opening>, Promise<StatementOutcome[]>] {
    const head = this.#openingStatements()
    const { statementWithinMs } = this.#environment.limits
    const flight = connection.flight([...head, ...this.#traced(statement)], statementWithinMs)
    this.#opening = this.#judgeOpening(flight.then((outcomes) => outcomes.slice(0, head.length)))
    return [this.#opening, flight.then((outcomes) => outcomes.slice(head.length))]
  }

  async #ask(connection: Connection, statement: Statement): Promise<StatementOutcome[]> {
    const { statementWithinMs } = this.#environment.limits
    if (this.#opened !== undefined) return connection.flight(this.#traced(statement), statementWithinMs)
    // Nobody knows yet whether the opening took place.
    const outcomes = await connection.flight([store.requireBound, ...this.#traced(statement)], statementWithinMs)
    return outcomes.slice(1)
  }

  #traced(statement: Statement): Statement[] {
    return this.#isTraced() ? [{ ...statement, joined: true }, store.leavesTrace] : [statement]
  }

  #isTraced(): boolean {
    return this.#options.home === null
  }

  /**
   * The last flight: with the opening in front when nothing was sent before. `onSent` is called when the kernel has it.
   * Rejects with `ConnectionLost`, or before anything is written with what kept it from being sent.
   *   behind  what travels in the same write and is run when all of that has ended
   */
  async last(
    tail: readonly Statement[],
    deadlineMs: number,
    onSent: () => Promise<void>,
    behind: readonly Statement[] = [],
  ): Promise<LastFlight> {
    const connection = await this.#connect()
    if (this.#opening !== undefined) await this.#opening
    const { pools, targetOf } = this.#environment
    pools.requireRoom(targetOf(this.shard.primary))
    const head = this.#opening === undefined ? this.#openingStatements() : []
    // One sync point: nothing of it is run behind an opening that was refused, or behind another failure.
    const own = [...head, ...tail.map((statement) => ({ ...statement, joined: true as const }))]
    const sent = () =>
      onSent().catch((error: unknown) => {
        throw new ConnectionLost('stopped after it was sent', true, error)
      })
    const [answered, answeredBehind] = await connection.inOneWrite(() =>
      Promise.allSettled([connection.flight(own, deadlineMs, sent), connection.flight(behind, deadlineMs)]),
    )
    if (answered.status === 'rejected') throw answered.reason
    if (answeredBehind.status === 'rejected') throw answeredBehind.reason
    const outcomes = answered.value
    return {
      openingFailure: head.length === 0 ? undefined : this.#openingFailure(outcomes.slice(0, head.length)),
      outcomes: outcomes.slice(head.length),
      outcomesBehind: answeredBehind.value,
    }
  }

  #openingFailure(outcomes: readonly StatementOutcome[]): HoldfastError | undefined {
    try {
      this.#opened = this.#judge(outcomes)
      return undefined
    } catch (error) {
      return toHoldfastError(error, this.#place())
    }
  }

  /** Sends statements inside the opened transaction and waits, in one flight. */
  async flight(statements: readonly Statement[]): Promise<StatementOutcome[]> {
    const connection = await this.#connect()
    await this.#open(connection)
    return connection.flight(statements, this.#environment.limits.statementWithinMs)
  }

  /** Ends it without effect, and gives the connection back. Never rejects. */
  async rollBack(): Promise<void> {
    try {
      const connection = await this.#connecting
      if (connection === undefined) return
      if (connection.status !== 'closed') {
        await connection.flight([store.rollback], this.#environment.limits.serviceWithinMs)
      }
    } catch {
      // A connection that is lost rolls back by itself, as soon as the server knows.
    } finally {
      this.#connection?.release()
    }
  }

  /** Gives the connection back, once what is left of a failed transaction is rolled back. */
  release(): void {
    if (this.#connection?.status === 'failed') this.#environment.background.run(() => this.rollBack())
    else this.#connection?.release()
  }

  /** The failure of an outcome or a lost connection, in the caller's terms; the first is kept as the doom. */
  #fail(error: unknown): HoldfastError {
    const failure = toHoldfastError(error, this.#place())
    this.#environment.clocks.forget(this.shard)
    this.#failure ??= failure
    return failure
  }

  #connect(): Promise<Connection> {
    this.#connecting ??= this.#reserve()
    return this.#connecting
  }

  async #reserve(): Promise<Connection> {
    const { pools, targetOf } = this.#environment
    try {
      const target = targetOf(this.shard.primary)
      pools.requireRoom(target)
      this.#connection = await pools.reserve(target)
      return this.#connection
    } catch (error) {
      throw this.#fail(error)
    }
  }

  #open(connection: Connection): Promise<Opening> {
    this.#opening ??= this.#sendOpening(connection)
    return this.#opening
  }

  #sendOpening(connection: Connection): Promise<Opening> {
    return this.#judgeOpening(connection.flight(this.#openingStatements(), this.#environment.limits.statementWithinMs))
  }

  async #judgeOpening(answer: Promise<StatementOutcome[]>): Promise<Opening> {
    let outcomes: StatementOutcome[]
    try {
      outcomes = await answer
    } catch (error) {
      throw this.#fail(error)
    }
    this.#opened = this.#judge(outcomes)
    return this.#opened
  }

  #openingStatements(): Statement[] {
    const { home, tenant, transactionId, isolation, shard } = this.#options
    return [
      ...this.#approach(),
      store.begin(isolation),
      store.open({
        tenant,
        transactionId,
        epoch: shard.epoch,
        placements: writableOn(this.#environment.directory.current(), tenant, shard.name),
        key: home?.key ?? null,
        requestHash: home?.requestHash ?? null,
        lockWithinMs: this.#environment.limits.lockWithinMs,
        runWithinMs: this.#environment.limits.runWithinMs,
        isHome: home !== null,
      }),
    ]
  }

  /** Home's clock, unless it was heard to be where it should be a moment ago. */
  #approach(): Statement[] {
    const { home, shard } = this.#options
    if (home === null) return []
    const { clocks, clock } = this.#environment
    const wallMs = clock.wallMs()
    if (clocks.isPast(shard, home.frontier, wallMs)) return []
    return [store.approachClock(home.frontier, hlcFromWallMs(wallMs))]
  }

  #judge(outcomes: readonly StatementOutcome[]): Opening {
    const [approached, begun] = outcomes.slice(0, -1)
    if (begun !== undefined) noteAdoption(this.#environment.metrics, this.shard.name, approached)
    for (const outcome of outcomes) if (!outcome.ok) throw this.#fail(outcome.error)
    const opening = store.readOpening(present(outcomes.at(-1), 'the outcome of the opening'))
    this.#environment.clocks.note(this.shard, opening.clock)
    return opening
  }

  #place() {
    return { shard: this.shard.name, transactionId: this.#options.transactionId }
  }
}
