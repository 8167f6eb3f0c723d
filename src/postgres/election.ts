import { present } from '../base/assert.ts'
import type { Clock } from '../base/clock.ts'
import type { Connection } from './connection.ts'

/**
 * One of many processes works at a time: the one whose connection holds a session advisory lock on the primary. It ends with
 * the connection, so who dies gives it up without doing anything. Who is stopped, or cut off without a word, keeps its
 * connection: the server ends one that says nothing for too long, and the lock with it.
 *
 * The others try again and again, on one connection each: a new one costs server and client a hundred times what a look does.
 * One of them is first in line, by a second lock, and looks often; the rest look rarely, so that what a fleet spends on looking
 * grows little with its processes.
 */
export interface Candidacy {
  /** The name of the lock. */
  readonly lock: string
  /** Between looks of the first in line; the rest look once in `restLooks` of them. */
  readonly everyMs: number
  /** Who is elected asks something more often than this, for as long as it works. Several times `everyMs`. */
  readonly silentForMsMax: number
  /** Whether this server is still the one to be elected on. */
  readonly isPrimary: () => boolean
  readonly clock: Clock
  readonly answerWithinMs: number
}

export const restLooks = 4

/** Null on a follower: a lock there elects nobody. The inner query is not pulled up: what it calls is volatile. */
const electionSql = `select e.elected, case when e.elected is false and $2
    then pg_try_advisory_lock(hashtextextended($1 || '.next', 0)) end as next
  from (select case when not pg_is_in_recovery()
    then pg_try_advisory_lock(hashtextextended($1, 0)) end as elected) e`
const silenceSql = `select set_config('idle_session_timeout', $1, false)`
const leaveLineSql = `select pg_advisory_unlock(hashtextextended($1 || '.next', 0))`

/**
 * Tries for the lock until it is this connection's. False when the server is not the primary, or no longer. Rejects with
 * `ConnectionLost`, `ServerError`, or the signal's reason.
 */
export async function elect(
  connection: Connection,
  { lock, everyMs, silentForMsMax, isPrimary, clock, answerWithinMs }: Candidacy,
  signal: AbortSignal,
): Promise<boolean> {
  await connection.query(silenceSql, [`${silentForMsMax}ms`], answerWithinMs)
  let isNext = false
  while (isPrimary()) {
    const { elected, next } = await look(connection, [lock, !isNext], answerWithinMs)
    isNext ||= next === true
    if (elected !== false) {
      if (isNext) await connection.query(leaveLineSql, [lock], answerWithinMs)
      return elected === true
    }
    await clock.sleep(isNext ? everyMs : restLooks * everyMs, signal)
  }
  return false
}

interface Look {
  readonly elected: boolean | null
  /** Null when it was not tried for. */
  readonly next: boolean | null
}

async function look(connection: Connection, values: [string, boolean], answerWithinMs: number): Promise<Look> {
  const { rows } = await connection.query<Look>(electionSql, values, answerWithinMs)
  return present(rows[0], 'a row')
}
