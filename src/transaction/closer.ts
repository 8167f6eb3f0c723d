import { assert, present } from '../base/assert.ts'
import type { Clock } from '../base/clock.ts'
import type { OnStep, StepPlace } from '../base/step.ts'
import type { Hlc } from '../hlc/hlc.ts'
import { hlcFromWallMs, hlcZero, maxHlc, toHlc, wallMsOfHlc } from '../hlc/hlc.ts'
import type { Connection } from '../postgres/connection.ts'
import type { Statement, StatementOutcome } from '../postgres/statement.ts'
import { accepted } from '../postgres/statement.ts'
import { formatLsn, parseLsn } from '../postgres/lsn.ts'
import type { BegunClosing } from './closings.ts'
import { addClosing, withoutPublished } from './closings.ts'

/**
 * Closing: advancing a shard's closed timestamp. Protocol and invariants are in docs/protocols/clock.md.
 *
 * Reading the clock and publishing what it said would be wrong: a transaction that drew its stamp a moment ago may
 * commit a moment from now, below what was published. So the closer waits for everyone who may have drawn:
 *
 *   1. move     bring the clock to wall time and read it: `T`, and raise the floor to it. Whoever draws from here on
 *               draws above `T`.
 *   2. own xid  draw a transaction id `X` of our own. A stamp at or below `T` belongs to a transaction that had its xid
 *               before it drew (C1), so that xid is below `X`.
 *   3. wait     until the oldest xid in progress, of prepared transactions too, is above `X`. All those have ended.
 *   4. publish  `greatest(old, T)`, once as many followers as a commit waits for have the floor that was raised to `T` (C7):
 *               no history that a promotion opens stamps at or below it.
 *
 * A beat is one flight of two statements: it begins a closing, and publishes the greatest of those that were begun before
 * and have been waited for. Its second statement is the one that has the xid `X` of the closing that its first began. So
 * however far the server is, a closing costs one round trip, and beats need not wait for each other.
 *
 * HAZARD: they are statements of their own, in autocommit. In one transaction they would wait for themselves, or look at a
 * snapshot from before the wait (HZ-C2); and an xid that was drawn together with `T` may be younger than a stamp below it.
 */

/** Who holds the closed timestamp back: a session by `pid`, or a prepared transaction by `gid`. */
export interface ClosingBlocker {
  readonly pid: number | null
  readonly gid: string | null
  readonly database: string
  readonly application: string | null
  /** What `pg_stat_activity` says of the session, or `prepared`. */
  readonly state: string | null
  /** The wait event of the session, e.g. `SyncRep` for one that waits for followers. */
  readonly waitsFor: string | null
  readonly ageMs: number
}

export interface CloserOptions {
  readonly clock: Clock
  readonly onStep: OnStep
  readonly where: StepPlace
  /** Called about once every `blockedAfterMs` while a transaction holds the closed timestamp back. */
  readonly onBlocked: (blocker: ClosingBlocker, blockedMs: number) => void
  readonly blockedAfterMs: number
}

/** What a beat found. */
export interface Beat {
  /** Somebody has drawn, or was observed, since the clock was last read. */
  readonly used: boolean
  /** What the shard's clock read. */
  readonly clock: Hlc
  readonly closed: Hlc
  /** Of a beat that began a closing. */
  readonly walls: WallReading | undefined
}

export interface WallReading {
  /** The server's wall clock above this process's. Who is right cannot be told from it. */
  readonly offsetMs: number
  /** By how much at most the link falsifies the offset. */
  readonly uncertainMs: number
  /** The shard's clock above the server's wall clock. */
  readonly aheadMs: number
  /** The server's wall clock above the closed timestamp. */
  readonly lagMs: number
}

/** No answer within this: the server or the link is gone, and another connection is tried. */
const answerWithinMs = 10_000

export class Closer {
  readonly #connection: Connection
  readonly #options: CloserOptions
  #begun: readonly BegunClosing[] = []
  #closed = hlcZero
  #publishedFromMs = Number.NEGATIVE_INFINITY
  /** What the clock read when it was last seen. */
  #seen = hlcZero
  #reportAtMs: number

  constructor(connection: Connection, options: CloserOptions) {
    this.#connection = connection
    this.#options = options
    this.#reportAtMs = options.clock.monotonicMs() + options.blockedAfterMs
  }

  get closed(): Hlc {
    return this.#closed
  }

  /** Closings have begun that are not published. */
  get isWaiting(): boolean {
    return this.#begun.length > 0
  }

  /** When the newest closing that is published began, in monotonic milliseconds: who asked before that has been served. */
  get publishedFromMs(): number {
    return this.#publishedFromMs
  }

  /** For how long the oldest of them has been waiting. */
  get waitedMs(): number {
    const [oldest] = this.#begun
    return oldest === undefined ? 0 : this.#options.clock.monotonicMs() - oldest.begunMs
  }

  /**
   * One beat. Rejects with `ConnectionLost` or `ServerError`; published is then either the old value or a new one, all of
   * them true.
   */
  async beat(begins: boolean): Promise<Beat> {
    const { onStep, where, clock } = this.#options
    await onStep('closer move', where)
    const sentMs = { wall: clock.wallMs(), monotonic: clock.monotonicMs() }
    const outcomes = await this.#connection.flight(
      [...(begins ? [beginClosing(hlcFromWallMs(sentMs.wall))] : []), advanceClosed(this.#begun)],
      answerWithinMs,
    )
    const flownMs = clock.monotonicMs() - sentMs.monotonic
    const begun = begins ? readBegun(outcomes[0]) : undefined
    const advanced = readAdvanced(outcomes.at(-1))
    await onStep('closer own xid', where)

    const used = (begun?.seen ?? advanced.clock) > this.#seen || advanced.clock > (begun?.closing ?? advanced.clock)
    this.#seen = maxHlc(this.#seen, begun?.closing ?? advanced.clock)
    const hasPublished = advanced.closed > this.#closed
    this.#closed = maxHlc(this.#closed, advanced.closed)
    if (begun !== undefined) {
      const { own, position } = advanced
      const closing = { timestamp: begun.closing, own, position, begunMs: sentMs.monotonic }
      this.#begun = addClosing(this.#begun, closing)
      // The clock stands where it is closed: there is nothing to wait for.
      if (closing.timestamp <= this.#closed) this.#publishedFromMs = Math.max(this.#publishedFromMs, closing.begunMs)
    }
    for (const { timestamp, begunMs } of this.#begun) {
      if (timestamp <= this.#closed) this.#publishedFromMs = Math.max(this.#publishedFromMs, begunMs)
    }
    this.#begun = withoutPublished(this.#begun, this.#closed)
    if (hasPublished) await onStep('closer publish', where)
    if (this.isWaiting) await onStep('closer wait', where)
    await this.#report()
    return {
      used,
      clock: advanced.clock,
      closed: this.#closed,
      walls: begun && this.#readWalls(begun, sentMs.wall, flownMs),
    }
  }

  #readWalls(begun: Begun, sentWallMs: number, flownMs: number): WallReading {
    const serverMs = wallMsOfHlc(begun.wall)
    return {
      offsetMs: serverMs - (sentWallMs + flownMs / 2),
      uncertainMs: flownMs / 2,
      aheadMs: wallMsOfHlc(begun.closing) - serverMs,
      lagMs: serverMs - wallMsOfHlc(this.#closed),
    }
  }

  /** Names who holds the oldest closing back, once it has waited for long. */
  async #report(): Promise<void> {
    const { clock, blockedAfterMs, onBlocked } = this.#options
    const now = clock.monotonicMs()
    if (this.waitedMs < blockedAfterMs || now < this.#reportAtMs) return
    this.#reportAtMs = now + blockedAfterMs
    const blocker = await readBlocker(this.#connection)
    if (blocker !== undefined) onBlocked(blocker, this.waitedMs)
  }
}

interface Begun {
  readonly seen: Hlc
  readonly closing: Hlc
  readonly wall: Hlc
}

function beginClosing(wall: Hlc): Statement {
  return {
    text: 'select b.seen::text, b.closing::text, b.wall::text from holdfast.begin_closing($1::bigint) b',
    values: [wall],
  }
}

function readBegun(outcome: StatementOutcome | undefined): Begun {
  const { seen, closing, wall } = rowOf<{ seen: string; closing: string; wall: string }>(outcome)
  return { seen: toHlc(BigInt(seen)), closing: toHlc(BigInt(closing)), wall: toHlc(BigInt(wall)) }
}

function advanceClosed(begun: readonly BegunClosing[]): Statement {
  return {
    text: `select a.closed::text, a.own::text, a.position::text, a.clock::text
           from holdfast.advance_closed($1::bigint[], $2::text[]::xid8[], $3::text[]::pg_lsn[]) a`,
    values: [
      begun.map(({ timestamp }) => String(timestamp)),
      begun.map(({ own }) => String(own)),
      begun.map(({ position }) => formatLsn(position)),
    ],
  }
}

function readAdvanced(outcome: StatementOutcome | undefined) {
  const { closed, own, position, clock } = rowOf<Record<'closed' | 'own' | 'position' | 'clock', string>>(outcome)
  return {
    closed: toHlc(BigInt(closed)),
    own: BigInt(own),
    position: parseLsn(position),
    clock: toHlc(BigInt(clock)),
  }
}

async function readBlocker(connection: Connection): Promise<ClosingBlocker | undefined> {
  const { rows } = await connection.query<{
    pid: number | null
    gid: string | null
    database: string
    application: string | null
    state: string | null
    waits_for: string | null
    age_ms: string
  }>(
    'select pid, gid, database, application, state, waits_for, age_ms from holdfast.closing_blocker()',
    [],
    answerWithinMs,
  )
  const [row] = rows
  if (row === undefined) return undefined
  const { pid, gid, database, application, state } = row
  return { pid, gid, database, application, state, waitsFor: row.waits_for, ageMs: Number(row.age_ms) }
}

function rowOf<R>(outcome: StatementOutcome | undefined): R {
  const { rows } = accepted(present(outcome, 'one outcome a statement'))
  assert(rows.length === 1, 'the statement answers one row')
  return rows[0] as R
}
