import { assert, present } from '../base/assert.ts'
import type { Clock } from '../base/clock.ts'
import type { OnStep, StepPlace } from '../base/step.ts'
import type { Hlc } from '../hlc/hlc.ts'
import { toHlc } from '../hlc/hlc.ts'
import type { Connection, StatementOutcome } from '../postgres/connection.ts'
import { accepted } from '../postgres/connection.ts'

/**
 * Closing: one advance of a shard's closed timestamp. Protocol and invariants are in docs/protocols/clock.md.
 *
 * Reading the clock and publishing what it said would be wrong: a transaction that drew its stamp a moment ago may
 * commit a moment from now, below what was published. So the closer waits for everyone who may have drawn:
 *
 *   1. move     bring the clock to wall time and read it: `T`. Whoever draws from here on draws above `T`.
 *   2. own xid  raise the floor to `T`, then draw a transaction id `X` of our own. A stamp at or below `T` belongs to a
 *               transaction that had its xid before it drew (C1), so that xid is below `X`.
 *   3. wait     until the oldest xid in progress, of prepared transactions too, is above `X`. All those have ended.
 *   4. publish  `greatest(old, T)`.
 *
 * HAZARD: the four are statements of their own, in autocommit. In one transaction they would wait for themselves, or
 * look at a snapshot from before the wait (HZ-C2).
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

export interface ClosingOptions {
  readonly clock: Clock
  readonly signal: AbortSignal
  readonly onStep: OnStep
  readonly where: StepPlace
  /** Called about once every `blockedAfterMs` while a transaction holds the closed timestamp back. */
  readonly onBlocked: (blocker: ClosingBlocker, blockedMs: number) => void
  readonly blockedAfterMs: number
}

export interface Closing {
  readonly closed: Hlc
  /** How far the clock was ahead of the server's wall clock, in milliseconds. */
  readonly aheadMs: number
  /** The clock was moved on while we waited, so that it no longer tells whether anyone else drew from it. */
  readonly movedWhileWaiting: boolean
}

/** No answer within this: the server or the link is gone, and another connection is tried. */
const answerWithinMs = 10_000
const waitMsMin = 1
const waitMsMax = 8

/**
 * Closes once. Rejects with `ConnectionLost`, `ServerError`, or the signal's reason; published is then either the old
 * value or the new one, both true.
 */
export async function closeOnce(connection: Connection, options: ClosingOptions): Promise<Closing> {
  const { onStep, where } = options
  await onStep('closer move', where)
  const moved = await ask<{ clock: string; ahead_ms: string }>(
    connection,
    `select t.clock, (t.clock >> 16) - (holdfast.wall_hlc() >> 16) as ahead_ms from holdfast.tick() t(clock)`,
  )
  await onStep('closer own xid', where)
  const own = await drawOwnXid(connection, toHlc(BigInt(moved.clock)))
  await onStep('closer wait', where)
  const movedWhileWaiting = await waitForOlder(connection, own, options)
  await onStep('closer publish', where)
  const published = await ask<{ closed: string }>(connection, 'select holdfast.publish_closed($1) as closed', [
    moved.clock,
  ])
  return { closed: toHlc(BigInt(published.closed)), aheadMs: Number(moved.ahead_ms), movedWhileWaiting }
}

/** The clock as it stands: the last value drawn or set. */
export async function readClock(connection: Connection): Promise<Hlc> {
  const { clock } = await ask<{ clock: string }>(connection, 'select last_value as clock from holdfast.hlc')
  return toHlc(BigInt(clock))
}

/** Raises the floor before the xid is drawn, so that a stamp that slipped past every other rule still raises (C3). */
async function drawOwnXid(connection: Connection, closing: Hlc): Promise<bigint> {
  const [floor, drawn] = await connection.flight(
    [
      { text: 'select holdfast.raise_floor($1)', values: [closing] },
      { text: 'select pg_current_xact_id()::text as xid' },
    ],
    answerWithinMs,
  )
  rowOf(floor)
  return BigInt(rowOf<{ xid: string }>(drawn).xid)
}

async function waitForOlder(connection: Connection, own: bigint, options: ClosingOptions): Promise<boolean> {
  const { clock, signal, blockedAfterMs } = options
  const started = clock.monotonicMs()
  let reportAt = started + blockedAfterMs
  let moved = false
  for (let pauseMs = waitMsMin; ; pauseMs = Math.min(pauseMs * 2, waitMsMax)) {
    const { oldest } = await ask<{ oldest: string }>(
      connection,
      'select pg_snapshot_xmin(pg_current_snapshot())::text as oldest',
    )
    if (BigInt(oldest) > own) return moved
    await clock.sleep(pauseMs, signal)
    const now = clock.monotonicMs()
    if (now >= reportAt) {
      reportAt = now + blockedAfterMs
      const blocker = await readBlocker(connection)
      if (blocker !== undefined) options.onBlocked(blocker, now - started)
    }
    // A shard whose closing is held back still stamps: its clock must not stand still.
    await ask(connection, 'select holdfast.tick()')
    moved = true
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

async function ask<R>(connection: Connection, text: string, values: readonly unknown[] = []): Promise<R> {
  const [outcome] = await connection.flight([{ text, values }], answerWithinMs)
  return rowOf<R>(outcome)
}

function rowOf<R>(outcome: StatementOutcome | undefined): R {
  const { rows } = accepted(present(outcome, 'one outcome a statement'))
  assert(rows.length === 1, 'the statement answers one row')
  return rows[0] as R
}
