import { FollowersAwaited } from './failure.ts'
import { type ConnectionTarget, type Statement, type StatementOutcome } from './statement.ts'

/**
 * Backends of one server that were given up here, and wait for its followers still.
 *
 * PostgreSQL ends such a wait for nobody who has gone: neither a closed socket nor a timeout of the statement. While followers
 * are away each commit, vote, settlement and barrier that is given up leaves a backend behind, and the last connection that the
 * server lets in would be taken by one of them: from then on nobody could ask it anything, or settle, or close a timestamp.
 *
 *   W1  One that was given up is looked for at once, and again for as long as it is seen to wait for followers. What else it may
 *       be at ends by limits of its own, and is not counted.
 *   W2  Where `waitingMax` of them are seen, nothing more is sent from here that would wait with them: it is refused before it
 *       is sent. What does not wait, such as reading, goes on.
 *   W3  A server that does not answer keeps what was last seen of it: nobody could send it anything either.
 */
export const waitingMax = 12

const lookEveryMs = 300
/** While the server does not answer, each look waits twice as long as the one before, up to this. */
const lookEveryMsMax = 30_000
const answerWithinMs = 1_000

/** By the role that they log in as: the sessions of others show no more than that they are there. */
function selectWaiting(processIds: readonly number[]): Statement {
  return {
    text: `select a.pid from pg_stat_activity a where a.pid = any ($1) and a.wait_event = 'SyncRep'`,
    values: [processIds],
  }
}

export type Ask = (statement: Statement, withinMs: number) => Promise<StatementOutcome>

export class GivenUp {
  readonly #target: ConnectionTarget
  readonly #ask: Ask
  /** Of which it is not known what they do. */
  #unseen = new Set<number>()
  #waiting = new Set<number>()
  #timer: NodeJS.Timeout | undefined
  #pauseMs = lookEveryMs
  #isLooking = false
  #closed = false

  constructor(target: ConnectionTarget, ask: Ask) {
    this.#target = target
    this.#ask = ask
  }

  note(processId: number): void {
    this.#unseen.add(processId)
    this.#pauseMs = lookEveryMs
    if (!this.#isLooking) this.#lookIn(0)
  }

  /** W2. Throws `FollowersAwaited`. */
  requireRoom(): void {
    if (this.#waiting.size >= waitingMax) throw new FollowersAwaited(this.#waiting.size, this.#target)
  }

  close(): void {
    this.#closed = true
    clearTimeout(this.#timer)
  }

  #lookIn(afterMs: number): void {
    if (this.#closed) return
    clearTimeout(this.#timer)
    this.#timer = setTimeout(() => void this.#look(), afterMs)
    this.#timer.unref()
  }

  async #look(): Promise<void> {
    this.#isLooking = true
    const lookedFor = new Set([...this.#unseen, ...this.#waiting])
    const pauseMs = this.#pauseMs
    this.#pauseMs = Math.min(2 * pauseMs, lookEveryMsMax)
    try {
      const outcome = await this.#ask(selectWaiting([...lookedFor]), answerWithinMs)
      if (outcome.ok) this.#see(lookedFor, new Set(outcome.rows.map(({ pid }) => Number(pid))))
    } catch {
      // W3.
    }
    this.#isLooking = false
    if (this.#unseen.size + this.#waiting.size > 0) this.#lookIn(Math.min(pauseMs, this.#pauseMs))
  }

  /** W1. Who came meanwhile is looked for the next time. */
  #see(lookedFor: ReadonlySet<number>, waiting: ReadonlySet<number>): void {
    this.#pauseMs = lookEveryMs
    this.#waiting = new Set(waiting)
    this.#unseen = new Set([...this.#unseen].filter((processId) => !lookedFor.has(processId)))
  }
}
