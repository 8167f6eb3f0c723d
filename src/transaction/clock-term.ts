import { present } from '../base/assert.ts'
import type { Clock } from '../base/clock.ts'
import type { Deferred } from '../base/deferred.ts'
import { deferred } from '../base/deferred.ts'
import { toHlc } from '../hlc/hlc.ts'
import type { Connection } from '../postgres/connection.ts'
import { accepted } from '../postgres/statement.ts'
import { AnswerTime } from './answer-time.ts'
import type { Beat, Closer } from './closer.ts'
import type { KeeperPace } from './closings.ts'
import { nextBeat, pauseMs } from './closings.ts'

/**
 * What a keeper does while it is elected: beats, as eagerly as the shard is used and waited for, and sleep.
 *
 * Beats do not wait for each other: one is sent a moment after the other, however long the answers take, so that a keeper
 * far away closes as often as one beside the primary.
 *
 * Who waits for a timestamp, or finds the clock standing still, asks the keeper by a notification, for which it listens
 * through all its term; a lock tells that it does. Until what was asked for is closed it beats as fast as it may. Else it
 * beats as rarely as what it publishes may trail, and leaves a shard that nobody uses alone but for a heartbeat. Before it
 * sleeps it looks at the clock once more: who moved it before the look is seen by that, and who does later notifies.
 */
export interface ClockTermOptions {
  readonly connection: Connection
  readonly closer: Closer
  readonly clock: Clock
  readonly pace: KeeperPace
  /** `goesOn` for a while: the shard was used a moment ago. */
  readonly onBeat: (beat: Beat, tookMs: number, goesOn: boolean) => void
}

/** So many beats are on their way at most, over whatever link. */
const underwayMax = 64
const answerWithinMs = 10_000
/** How often one may be sent alone, to see how much the link holds by now. Far away that costs the closings of two round trips. */
const measureEveryMs = 30_000

/** The keeper before this one may have lost its place a moment ago, and this lock not yet. */
const listensSql = `select pg_advisory_lock(hashtextextended('holdfast.clock-listens', 0))`
const lookSql = 'select last_value::text as clock from holdfast.hlc'

export class ClockTerm {
  readonly #options: ClockTermOptions
  readonly #underway = new Set<Promise<void>>()
  #failure: { readonly error: unknown } | undefined
  #usedAtMs: number
  readonly #answers = new AnswerTime(measureEveryMs)
  #begunAtMs = Number.NEGATIVE_INFINITY
  #askedAtMs = Number.NEGATIVE_INFINITY
  #asked: Deferred<void> = deferred()

  constructor(options: ClockTermOptions) {
    this.#options = options
    this.#usedAtMs = options.clock.monotonicMs()
    options.connection.onNotification(() => this.#noteAsked())
  }

  /** Until `isOver`, or the signal. Rejects with `ConnectionLost`, `ServerError`, or the signal's reason. */
  async run(isOver: () => boolean, signal: AbortSignal): Promise<void> {
    const { clock, closer, connection, pace } = this.#options
    const heard = await connection.flight([{ text: 'listen holdfast_clock' }, { text: listensSql }], answerWithinMs)
    heard.forEach(accepted)
    while (!isOver()) {
      signal.throwIfAborted()
      const now = clock.monotonicMs()
      const idleness = { sinceUsedMs: now - this.#usedAtMs, sinceBegunMs: now - this.#begunAtMs }
      const next = nextBeat({ ...idleness, isWaiting: closer.isWaiting }, pace)
      // What is on its way may change what is next, but for who is in a hurry.
      if (this.#underway.size > (next === 'close' ? this.#underwayMax(now) : 0)) await Promise.race(this.#underway)
      else if (next === 'sleep') await this.#sleep(signal)
      else await this.#beat(next, signal)
      if (this.#failure !== undefined) throw this.#failure.error
    }
  }

  /** As many as the link holds, by its fastest answer: more would queue at a slow server, and come late. */
  #underwayMax(now: number): number {
    return Math.min(this.#answers.underwayMax(now, this.#underway.size, this.#options.pace.activeMs), underwayMax)
  }

  async #beat(next: 'close' | 'advance', signal: AbortSignal): Promise<void> {
    const { clock, closer, pace } = this.#options
    const answered = this.#send(next === 'close')
    await (next === 'close' ? this.#first(answered, pace.activeMs, signal) : answered)
    await clock.sleep(pace.activeMs, signal)
    const isAsked = this.#askedAtMs > closer.publishedFromMs
    const restMs = pauseMs(next, { isAsked, waitedMs: closer.waitedMs }, pace) - pace.activeMs
    if (restMs > 0) await this.#first(this.#asked.promise, restMs, signal)
  }

  /** Sends one beat; resolves when it is answered. What it rejects with is kept for the loop. */
  #send(begins: boolean): Promise<void> {
    const { clock, closer, pace, onBeat } = this.#options
    const sentMs = clock.monotonicMs()
    if (begins) {
      this.#begunAtMs = sentMs
      this.#asked = deferred()
    }
    const measures = this.#answers.sent(sentMs, this.#underway.size === 0)
    const beat = closer.beat(begins).then(
      (found) => {
        const now = clock.monotonicMs()
        if (found.used) this.#usedAtMs = now
        const tookMs = now - sentMs
        this.#answers.answered(tookMs, measures)
        onBeat(found, tookMs, now - this.#usedAtMs < pace.activeForMs / 2)
      },
      (error: unknown) => {
        this.#failure ??= { error }
      },
    )
    const answered: Promise<void> = beat.finally(() => this.#underway.delete(answered))
    this.#underway.add(answered)
    return answered
  }

  /** Until the next heartbeat, or until somebody needs the clock. */
  async #sleep(signal: AbortSignal): Promise<void> {
    const { clock, closer, connection, pace } = this.#options
    this.#asked = deferred()
    const { rows } = await connection.query<{ clock: string }>(lookSql, [], answerWithinMs)
    if (toHlc(BigInt(present(rows[0], 'a row').clock)) > closer.closed) {
      this.#noteUse()
      return
    }
    const heartbeatInMs = pace.heartbeatMs - (clock.monotonicMs() - this.#begunAtMs)
    await this.#first(this.#asked.promise, Math.max(heartbeatInMs, 0), signal)
  }

  #noteAsked(): void {
    this.#noteUse()
    this.#askedAtMs = this.#usedAtMs
    this.#asked.resolve()
  }

  /** Somebody needs the clock: what it reads is closed, however soon the shard is idle again. */
  #noteUse(): void {
    this.#usedAtMs = this.#options.clock.monotonicMs()
    this.#begunAtMs = Number.NEGATIVE_INFINITY
  }

  /** Resolves with the promise or after the time, whatever is first. Rejects when the signal is aborted. */
  async #first(promise: Promise<void>, withinMs: number, signal: AbortSignal): Promise<void> {
    signal.throwIfAborted()
    // Not a signal made of both: one that lives as long as the process keeps a trace of each that is made from it.
    const over = new AbortController()
    const stop = () => over.abort(signal.reason)
    signal.addEventListener('abort', stop, { once: true })
    try {
      await Promise.race([promise, this.#options.clock.sleep(withinMs, over.signal)])
    } finally {
      signal.removeEventListener('abort', stop)
      over.abort()
    }
  }
}
