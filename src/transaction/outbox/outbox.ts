import type { Clock } from '../../base/clock.ts'
import type { Metrics } from '../../base/metrics.ts'
import type { OnStep } from '../../base/step.ts'
import type { ShardName } from '../../directory/topology.ts'
import type { Hlc } from '../../hlc/hlc.ts'
import type { ConnectionTarget } from '../../postgres/statement.ts'
import { Connection } from '../../postgres/connection.ts'
import { ConnectionLost, ServerError } from '../../postgres/failure.ts'
import { elect } from '../../postgres/election.ts'
import type { Attempt } from './delivery.ts'
import { afterAttempt, isDue } from './delivery.ts'
import type { DeliveryJournal } from './delivery-journal.ts'
import type { OutboxCursor, OutboxEvent } from './outbox-store.ts'
import { cursorOf, cursorPast, outboxStart, readOutbox, readShardState } from './outbox-store.ts'
import { postEvent } from './webhook.ts'

/**
 * Side effects of committed transactions leave here, at least once, each with its event id as `Idempotency-Key`.
 *
 * The simple way is to send while the transaction runs, or right after it, and to mark the row as sent. The first sends
 * effects of transactions that roll back. The second loses an effect when the process dies in between. And a mark in
 * the database goes back with the database: after a restore, everything behind the target would be sent again.
 *
 * So events are rows that commit with their transaction, and what became of each is journalled in a file that no
 * restore touches. One dispatcher a shard, elected by a session advisory lock on the primary, reads the rows in
 * commit order and sends what the journal does not call delivered.
 *
 * Owns: the order of *journal, send, journal*, when to try again, and who dispatches. Does not own: writing the rows
 * (`holdfast.stamp` does), which effects to compensate after a cutover (its plan lists them).
 *
 *   E1  Nothing is sent for a transaction that could still be lost: a barrier at the server that showed the rows
 *       passes before the first of them leaves.
 *   E2  `sending` is on the disk before the request leaves, `delivered` only after an answer in the 200s. A crash
 *       between the two sends again, with the same id.
 *   E3  An event that the journal calls delivered is never sent again, by whichever dispatcher, under whichever history.
 *   E4  Every event of a committed transaction is sent in the end: an event may only be passed over for good below the
 *       closed timestamp, where no transaction can become visible any more.
 *   E5  A shard that is fenced, or at another epoch than when the dispatcher was elected, sends nothing.
 *
 * HAZARD: a receiver that ignores `Idempotency-Key` sees an event twice after a crash between answer and journal.
 * Exactly-once delivery does not exist; the key is what makes the effect happen once.
 */
export interface DispatcherOptions {
  readonly shard: ShardName
  /** The shard's primary as the topology has it now, for the gateway's role; undefined while there is none. */
  readonly target: () => ConnectionTarget | undefined
  readonly journal: DeliveryJournal
  readonly webhookUrl: string
  /** Resolves when everything visible at `target()` is on its followers; rejects when that cannot be shown. */
  readonly barrier: () => Promise<unknown>
  readonly clock: Clock
  readonly metrics: Metrics
  readonly onStep: OnStep
  readonly cadence?: OutboxCadence
}

export interface OutboxCadence {
  readonly pollMs: number
  readonly electionMs: number
  readonly answerWithinMs: number
  /** One that is elected and was stopped keeps the place for so long: more than a barrier, or an answer, may take. */
  readonly silentForMsMax: number
}

export const outboxCadenceDefault: OutboxCadence = {
  pollMs: 100,
  electionMs: 500,
  answerWithinMs: 5_000,
  silentForMsMax: 15_000,
}

/** While so many events wait for a receiver, no more are read. */
const pendingMax = 1_000
const pageSize = 200
/** After so many, what was committed meanwhile is taken up. */
const batchMax = 20
const connectWithinMs = 5_000
const answerWithinMs = 10_000

export interface Dispatcher {
  /** Runs until the signal is aborted, and lets the request that is under way end. Rejects only when the journal cannot be trusted or written. */
  run(signal: AbortSignal): Promise<void>
}

export function createDispatcher(options: DispatcherOptions): Dispatcher {
  return { run: (signal) => runDispatcher(options, signal) }
}

async function runDispatcher(options: DispatcherOptions, signal: AbortSignal): Promise<void> {
  const { clock, metrics, shard, cadence = outboxCadenceDefault } = options
  while (!signal.aborted) {
    try {
      await serve(options, cadence, signal)
    } catch (error) {
      if (signal.aborted && error === signal.reason) return
      if (!(error instanceof Interruption || error instanceof ConnectionLost || error instanceof ServerError))
        throw error
      metrics.count('outbox_interrupted_total', { shard })
    }
    await clock.sleep(cadence.electionMs, signal).catch(() => undefined)
  }
}

/** What ends a candidacy and is tried again: the server cannot show now that what it holds is safe. */
class Interruption extends Error {}

/** One candidacy, and the tenure that follows when it is elected: returns when this server is no longer the open primary. */
async function serve(options: DispatcherOptions, cadence: OutboxCadence, signal: AbortSignal): Promise<void> {
  const target = options.target()
  if (target === undefined) return
  const connection = await Connection.connect(target, connectWithinMs)
  try {
    const isPrimary = () => sameServer(options.target(), target)
    const { clock } = options
    const { electionMs: everyMs, silentForMsMax } = cadence
    const candidacy = { lock: 'holdfast.outbox', everyMs, silentForMsMax, isPrimary, clock, answerWithinMs }
    if (!(await elect(connection, candidacy, signal))) return
    // Whoever was elected before may have delivered since we last looked.
    await options.journal.refresh()
    await new Tenure(options, cadence, connection, target).dispatch(signal)
  } finally {
    connection.release()
    options.metrics.forget('outbox_pending', { shard: options.shard })
  }
}

interface Pending {
  readonly event: OutboxEvent
  readonly attempt: Attempt | undefined
}

/** The time from an election to its end. What is in memory here is rebuilt from rows and journal by the next one. */
class Tenure {
  readonly #options: DispatcherOptions
  readonly #cadence: OutboxCadence
  readonly #connection: Connection
  readonly #target: ConnectionTarget
  readonly #pending = new Map<string, Pending>()
  #cursor: OutboxCursor = outboxStart
  #epoch: number | undefined

  constructor(options: DispatcherOptions, cadence: OutboxCadence, connection: Connection, target: ConnectionTarget) {
    this.#options = options
    this.#cadence = cadence
    this.#connection = connection
    this.#target = target
  }

  async dispatch(signal: AbortSignal): Promise<void> {
    const { clock } = this.#options
    while (!signal.aborted && this.#isAtPrimary()) {
      if (!(await this.#read())) return
      const left = await this.#sendDue(signal)
      if (left === 0) await clock.sleep(this.#cadence.pollMs, signal).catch(() => undefined)
    }
  }

  /** Takes up what is new. False when this shard may send nothing (E5). */
  async #read(): Promise<boolean> {
    let after = this.#cursor
    let closed: Hlc | undefined
    for (;;) {
      const page = await readOutbox(this.#connection, after, pageSize)
      // E4: of the first page. What closed since may have become visible behind the place that was read then.
      closed ??= page.closedTimestamp
      this.#epoch ??= page.epoch
      if (!page.open || page.epoch !== this.#epoch) return false
      for (const event of page.events) {
        after = cursorOf(event)
        if (this.#pending.has(event.eventId) || this.#options.journal.isDelivered(event.eventId)) continue
        this.#pending.set(event.eventId, { event, attempt: undefined })
      }
      const whole = page.events.length < pageSize
      if (whole) this.#cursor = cursorPast(closed)
      else if (after.commitTimestamp <= closed) this.#cursor = after
      if (whole || this.#pending.size >= pendingMax) return true
    }
  }

  /** Sends a batch of what is due, and says how much of it is left. */
  async #sendDue(signal: AbortSignal): Promise<number> {
    const { clock, metrics, shard } = this.#options
    metrics.gauge('outbox_pending', this.#pending.size, { shard })
    const due = [...this.#pending.values()].filter(({ attempt }) => isDue(attempt, clock.monotonicMs()))
    if (due.length === 0) return 0
    await this.#options.barrier().catch((cause: unknown) => {
      throw new Interruption('the barrier did not pass', { cause })
    })
    // The barrier went to the primary of that moment; it speaks for our rows only if that is still the server we read.
    if (!this.#isAtPrimary()) return 0
    for (const { event, attempt } of due.slice(0, batchMax)) {
      if (signal.aborted || !(await this.#isStillElected())) return 0
      const isDelivered = this.#options.journal.isDelivered(event.eventId)
      const next = isDelivered ? undefined : await this.#send(event, attempt)
      if (next === undefined) this.#pending.delete(event.eventId)
      else this.#pending.set(event.eventId, { event, attempt: next })
      // Nobody answers there: those behind it would only wait for the same.
      if (next?.unreachable === true) {
        for (const waiting of this.#pending.values()) {
          this.#pending.set(waiting.event.eventId, { event: waiting.event, attempt: next })
        }
        return 0
      }
    }
    return Math.max(0, due.length - batchMax)
  }

  /**
   * E3, E5. Asked before each event: who was stopped wakes up anywhere, when another may be elected and have delivered what
   * is in hand here. To ask keeps the session as well, which the server ends when it is silent.
   */
  async #isStillElected(): Promise<boolean> {
    const { open, epoch } = await readShardState(this.#connection)
    await this.#options.journal.refresh()
    return open && epoch === this.#epoch && this.#isAtPrimary()
  }

  #isAtPrimary(): boolean {
    return sameServer(this.#options.target(), this.#target)
  }

  /** E2. Undefined when delivered; else when to try again. */
  async #send(event: OutboxEvent, attempt: Attempt | undefined): Promise<Attempt | undefined> {
    const { clock, journal, metrics, onStep, shard, webhookUrl } = this.#options
    const where = { shard, eventId: event.eventId }
    const about = {
      eventId: event.eventId,
      transactionId: event.transactionId,
      commitTimestamp: event.commitTimestamp.toString(),
      tenant: event.tenant,
      name: event.name,
    }
    await journal.record({ ...about, state: 'sending', at: clock.wallMs(), reason: null })
    await onStep('outbox sending journalled', where)
    const answer = await postEvent(webhookUrl, event, clock, this.#cadence.answerWithinMs)
    await onStep('outbox event sent', where)
    const state = answer.kind === 'accepted' ? 'delivered' : 'failed'
    const reason = answer.kind === 'accepted' ? null : answer.reason
    await journal.record({ ...about, state, at: clock.wallMs(), reason })
    await onStep('outbox delivery journalled', where)
    metrics.count('outbox_deliveries_total', { shard, outcome: state })
    return answer.kind === 'accepted' ? undefined : afterAttempt(attempt, answer.kind, clock.monotonicMs())
  }
}

function sameServer(a: ConnectionTarget | undefined, b: ConnectionTarget): boolean {
  return a !== undefined && a.host === b.host && a.port === b.port
}
