import { HoldfastError } from '../base/errors.ts'
import { newTimeOrderedUuid, randomBelow } from '../base/random.ts'
import type { Epoch, HistoryId, ShardName, TransactionId } from '../directory/topology.ts'
import type { Hlc } from '../hlc/hlc.ts'
import type { Statement } from '../postgres/statement.ts'
import type { Lsn } from '../postgres/lsn.ts'
import type { AttemptEnd } from './attempt.ts'
import { Attempt } from './attempt.ts'
import type { TransactionEnvironment } from './environment.ts'
import { hashRequest, refuseOld, replay } from './idempotency.ts'
import { journalAttempt } from './journal.ts'
import { nextAttempt } from './retry.ts'
import { leftTrace } from './sql-errors.ts'

/**
 * A transaction of Holdfast: one business action, on the shards that own what it touches, decided in one place.
 *
 * The simple way is to open a PostgreSQL transaction wherever the tenant's data seems to be, commit, and for several
 * shards to prepare everywhere and keep the decision in the coordinator. It writes in the wrong place when the placement
 * has moved; it calls a commit that only this server has a commit; it repeats an action whose answer was lost; and it
 * leaves branches prepared for ever when the coordinator dies. So here:
 *
 *   T1  Authority first: every part carries the epoch and the placement versions it was routed by, and the shard itself
 *       refuses the stamp or the branch where they are not its own any more. Nothing was written then.
 *   T2  Statements of the caller run as `holdfast_bound`, under the binding of their opening, and behind them
 *       nothing travels that could decide on the word of one that failed.
 *   T3  The stamp is drawn last, after every lock and every deferred constraint (HZ-C5), above every prepare timestamp
 *       and above the caller's frontier (HZ-C10).
 *   T4  One commit decides: home's own, with the record beside the home rows. Home prepares nothing.
 *   T5  Committed means: the stamp accepted, the tag COMMIT, no warning; or the same learnt at home behind a barrier.
 *   T6  Failed means: nothing was written, and nothing will be. What is neither is `outcome_ambiguous`, with the id.
 *   T7  A key of a tenant decides once. Every later use tells the first outcome, behind a barrier at home, whoever else is away.
 *   T8  The caller's function is run again only when nothing was written: once for a stale placement, topology or lost
 *       server, a batch that was wrongly taken for a reading (Q6), or when an answer was lost and the abort is proven; a few times for serialisation failures, for locks
 *       that were waited for too long, as in a deadlock over two shards, and for statements that were prepared before their
 *       tables were altered; each time under an id of its own. Not with a key that may have been collected meanwhile (K8).
 *
 * Owns: the attempt (`attempt.ts`), the parts (`shard-transaction.ts`), the vote (`participant.ts`), the decision
 * (`commit-protocol.ts`, `coordinator.ts`), the question of what became of it (`outcome.ts`), settling (`settlement.ts`,
 * `in-doubt.ts`, `resolver.ts`), barriers (`barrier.ts`). Does not own: the clock's keeper, the outbox's dispatcher,
 * reads, and what a session token is: it gives the facts that one is made of. Talks to: PostgreSQL primaries, the
 * directory and the topology. SQL: `sql/functions/`, `20-opening.sql` to `33-decision.sql`.
 *
 * HAZARD: a wait for followers that is cancelled answers success with a warning, and one that is cut answers nothing and
 * commits later. Nothing here sends a cancel; a deadline gives up the connection and asks.
 */

/** The business action, and how it is to run. */
export interface TransactRequest {
  readonly tenant: string
  readonly action: string
  readonly subject: string
  readonly actor: string
  readonly idempotencyKey?: string | undefined
  /** What the key stands for beyond tenant, action, subject and actor. Survives JSON. */
  readonly request?: unknown
  readonly isolation?: Isolation | undefined
  /** The frontier of the caller's token: the commit gets a timestamp after it. */
  readonly observe?: Hlc | undefined
  /** Branches that the caller's token knows as decided and not yet seen settled: settled before their shard is used. */
  readonly pending?: readonly PendingOnShard[] | undefined
  /** Shards on which the token knows of more of them than it names: everything decided there is settled before they are used. */
  readonly pendingForgotten?: readonly ShardName[] | undefined
  /** Chosen by a caller that wants to ask for the outcome later; made here otherwise. Such a request is tried once. */
  readonly transactionId?: TransactionId | undefined
}

/** A request as it was made: what becomes of its object while it runs changes nothing. */
export interface TakenRequest extends TransactRequest {
  /** What the idempotency key stands for; null without one. */
  readonly requestHash: Uint8Array | null
}

export type Isolation = 'read committed' | 'repeatable read' | 'serializable'

export interface PendingOnShard {
  readonly shard: ShardName
  readonly transactionId: TransactionId
}

/** A branch that is decided and may not be settled yet; it becomes visible at this timestamp. */
export interface PendingBranch {
  readonly transactionId: TransactionId
  readonly timestamp: Hlc
}

export interface TouchedShard {
  readonly shard: ShardName
  /** A reader took part without writing: nothing of the transaction is there. */
  readonly role: 'home' | 'participant' | 'reader'
  readonly historyId: HistoryId
  readonly epoch: Epoch
  /** The highest of the placements used on this shard; 0 when none was, as at a home that only holds the record. */
  readonly placementVersion: number
  /** Home: flushed after the commit. Participant: after the prepare; the branch itself is `pending`. Reader: after its reads. */
  readonly position: Lsn
  /** Of a participant. Without it nobody knows the branch to be there: it was lost before the key was used again, or its shard is silent. */
  readonly pending?: PendingBranch
}

export interface Committed<T> {
  readonly value: T
  readonly transactionId: TransactionId
  readonly commitTimestamp: Hlc
  /** The home first. */
  readonly shards: readonly TouchedShard[]
  readonly replayed: boolean
}

/** What a caller's statement gave, in the form of `pg`. */
export interface QueryResult<R = Record<string, unknown>> {
  readonly rows: R[]
  readonly rowCount: number
  readonly fields: readonly { readonly name: string; readonly dataTypeID: number }[]
  readonly command: string
}

export interface DomainQuery {
  readonly text: string
  readonly values?: readonly unknown[]
  readonly rowMode?: 'array'
  /** Type parsers, as `pg` takes them. */
  readonly types?: Statement['types']
}

/** As much of a `pg` client as query builders use. */
export interface DomainClient {
  query<R = Record<string, unknown>>(query: string | DomainQuery, values?: readonly unknown[]): Promise<QueryResult<R>>
}

/** `rows`: how many rows the statement must affect; another number aborts the transaction with `transaction_refused`. */
export type BatchStatement = readonly [text: string, values?: readonly unknown[], expect?: { readonly rows: number }]

export interface Tx {
  readonly transactionId: TransactionId
  query<R = Record<string, unknown>>(domain: string, text: string, values?: readonly unknown[]): Promise<QueryResult<R>>
  batch(domain: string, statements: readonly BatchStatement[]): void
  emit(name: string, payload: unknown): void
  client(domain: string): DomainClient
}

/**
 * Runs one business action, atomically over all shards that it touches. Throws a `HoldfastError` (its table says what may
 * be repeated), or what the function threw, as it is. Whatever it throws but `outcome_ambiguous`, nothing was written.
 */
export async function transact<T>(
  environment: TransactionEnvironment,
  asked: TransactRequest,
  body: (tx: Tx) => Promise<T>,
): Promise<Committed<T>> {
  const request = takeRequest(asked)
  // A caller that chose the id asks for that one later: another may not take its place.
  const isTriedOnce = request.transactionId !== undefined
  const beganMs = environment.clock.wallMs()
  let trustsBatches = !isTriedOnce
  let refreshes = 0
  for (let attempts = 1; ; attempts += 1) {
    const transactionId = request.transactionId ?? (newTimeOrderedUuid() as TransactionId)
    // After the birth of the id: a pause before this look is seen here, and one behind it makes an old id, which home refuses.
    const expired = refuseOld(request, environment.clock.wallMs() - beganMs)
    if (expired !== undefined) {
      journalAttempt(environment, request, transactionId, expired)
      throw expired
    }
    const end = await runAttempt(environment, request, transactionId, trustsBatches, body)
    if (end.kind === 'committed') return end.committed
    if (end.kind === 'used before') return replay<T>(environment, end.home, request, end.first)
    if (end.kind === 'ambiguous') throw end.error
    const { metrics, limits, clock } = environment
    if (trustsBatches && leftTrace(end.mayRepeat)) {
      trustsBatches = false
      metrics.count('transaction_retried_total', { code: 'transaction_aborted' })
      continue
    }
    const next = nextAttempt(end.mayRepeat?.code, attempts, refreshes, limits.serializationRetriesMax)
    if (next.kind === 'give up' || isTriedOnce) {
      journalAttempt(environment, request, transactionId, end.error)
      throw end.error
    }
    metrics.count('transaction_retried_total', { code: end.mayRepeat?.code ?? '' })
    if (next.kind === 'pause') {
      await clock.sleep(randomBelow(next.pauseMsMax + 1))
    } else {
      refreshes += 1
      await Promise.allSettled([environment.directory.refresh(), environment.topology.refresh()])
    }
  }
}

/** Routing may refuse before there is an attempt. */
async function runAttempt<T>(
  environment: TransactionEnvironment,
  request: TakenRequest,
  transactionId: TransactionId,
  trustsBatches: boolean,
  body: (tx: Tx) => Promise<T>,
): Promise<AttemptEnd<T>> {
  let attempt: Attempt
  try {
    attempt = new Attempt(environment, request, transactionId, trustsBatches)
  } catch (error) {
    if (!(error instanceof HoldfastError)) throw error
    return { kind: 'failed', error, mayRepeat: error }
  }
  return attempt.run(body)
}

const nameLengthMax = 512
const isolations: readonly string[] = ['read committed', 'repeatable read', 'serializable']
const idForm = /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}$/

function takeRequest(request: TransactRequest): TakenRequest {
  checkRequest(request)
  return { ...request, requestHash: request.idempotencyKey === undefined ? null : hashRequest(request) }
}

function checkRequest(request: TransactRequest): void {
  const { tenant, action, subject, actor, idempotencyKey, isolation, transactionId } = request
  const names = { tenant, action, subject, actor, ...(idempotencyKey === undefined ? {} : { idempotencyKey }) }
  for (const [name, value] of Object.entries(names)) {
    const isName = typeof value === 'string' && value !== '' && value.length <= nameLengthMax && !value.includes('\0')
    if (!isName) throw new HoldfastError('argument_invalid', `${name} is a text of 1 to ${nameLengthMax} characters`)
  }
  if (isolation !== undefined && !isolations.includes(isolation)) {
    throw new HoldfastError('argument_invalid', `isolation is one of ${isolations.join(', ')}`)
  }
  if (transactionId !== undefined && !idForm.test(transactionId)) {
    throw new HoldfastError('argument_invalid', 'a transaction id is a version 7 UUID in lower case')
  }
}
