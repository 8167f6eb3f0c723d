import type { Clock } from '../base/clock.ts'
import type { Connection } from './connection.ts'

/**
 * One of many processes works at a time: the one whose connection holds a session advisory lock on the primary. It ends with
 * the connection, so who dies gives it up without doing anything.
 *
 * The others try again and again, on one connection each: a new one costs server and client a hundred times what a look does.
 */
export interface Candidacy {
  /** The name of the lock. */
  readonly lock: string
  readonly everyMs: number
  /** Whether this server is still the one to be elected on. */
  readonly isPrimary: () => boolean
  readonly clock: Clock
  readonly answerWithinMs: number
}

/** Null on a follower: a lock there elects nobody. */
const electionSql = `select case when not pg_is_in_recovery()
  then pg_try_advisory_lock(hashtextextended($1, 0)) end as elected`

/**
 * Tries for the lock until it is this connection's. False when the server is not the primary, or no longer. Rejects with
 * `ConnectionLost`, `ServerError`, or the signal's reason.
 */
export async function elect(
  connection: Connection,
  { lock, everyMs, isPrimary, clock, answerWithinMs }: Candidacy,
  signal: AbortSignal,
): Promise<boolean> {
  while (isPrimary()) {
    const { rows } = await connection.query<{ elected: boolean | null }>(electionSql, [lock], answerWithinMs)
    const elected = rows[0]?.elected ?? null
    if (elected !== false) return elected === true
    await clock.sleep(everyMs, signal)
  }
  return false
}
