import type { Clock } from '../base/clock.ts'
import { toHlc, wallMsOfHlc } from '../hlc/hlc.ts'
import type { Connection } from '../postgres/connection.ts'
import { present } from '../base/assert.ts'
import type { WallReading } from './closer.ts'

/**
 * Who keeps the clock of a shard: one of all gateways, by a session advisory lock on the primary. It is held by a
 * connection, so the keeper that dies, or whose link does, gives it up without doing anything; one that was stopped is
 * ended by the server, since its session idles.
 *
 * Anyone may keep, and one who does keeps on. But a candidate that is better holds a second lock while it waits, and a
 * keeper that sees one steps down: nobody steps down for nobody.
 */

/** 3: beside the primary, and its clock agrees with the server's. 2: elsewhere. 1: the clocks do not agree. */
export type CandidateRank = 1 | 2 | 3

export function rankOf(
  isNear: boolean,
  { offsetMs, uncertainMs }: Pick<WallReading, 'offsetMs' | 'uncertainMs'>,
  maxClockOffsetMs: number,
): CandidateRank {
  if (Math.abs(offsetMs) - uncertainMs > maxClockOffsetMs) return 1
  return isNear ? 3 : 2
}

export type Standing = 'elected' | 'not elected' | 'not a primary'

export interface Stood {
  readonly standing: Standing
  readonly walls: Pick<WallReading, 'offsetMs' | 'uncertainMs'>
}

/** Null on a follower: a lock there elects nobody. The inner query is not pulled up: what it calls is volatile. */
const standSql = `select e.elected, e.wall, case when e.elected is false and $1
    then pg_try_advisory_lock(hashtextextended('holdfast.clock-keeper.next', 0)) end as next
  from (select case when not pg_is_in_recovery()
      then pg_try_advisory_lock(hashtextextended('holdfast.clock-keeper', 0)) end as elected,
    holdfast.wall_hlc()::text as wall) e`
const leaveLineSql = `select pg_advisory_unlock(hashtextextended('holdfast.clock-keeper.next', 0))`
const announceSql = `select pg_advisory_lock_shared(hashtextextended('holdfast.clock-candidate', $1))`
const withdrawSql = `select pg_advisory_unlock_shared(hashtextextended('holdfast.clock-candidate', $1))`
const betterSql = `select exists (
    select from pg_locks l
    where l.locktype = 'advisory' and l.mode = 'ShareLock' and l.granted
      and l.database = (select d.oid from pg_database d where d.datname = current_database())
      and ((l.classid::bigint << 32) | l.objid::bigint) in (
        select hashtextextended('holdfast.clock-candidate', r.rank) from generate_series($1::integer + 1, 3) r(rank))
  ) as better`
const idleSql = `select set_config('idle_session_timeout', $1, false)`

export class ClockCandidate {
  readonly #connection: Connection
  readonly #clock: Clock
  readonly #answerWithinMs: number
  #announced: CandidateRank = 1
  #place: 'unknown' | 'first in line' | 'behind' = 'unknown'

  constructor(connection: Connection, clock: Clock, answerWithinMs: number) {
    this.#connection = connection
    this.#clock = clock
    this.#answerWithinMs = answerWithinMs
  }

  /** The server ends this session, and with it every lock, when it hears nothing for this long. */
  async endWhenSilentFor(ms: number): Promise<void> {
    await this.#connection.query(idleSql, [`${ms}ms`], this.#answerWithinMs)
  }

  /** Whether another is first in line, beside the primary: it looks often, so that this one need not. */
  get isBehind(): boolean {
    return this.#place === 'behind'
  }

  async stand(): Promise<Stood> {
    const mayLead = this.#announced === 3 && this.#place !== 'first in line'
    const wallMs = this.#clock.wallMs()
    const sentMs = this.#clock.monotonicMs()
    const { rows } = await this.#connection.query<{ elected: boolean | null; wall: string; next: boolean | null }>(
      standSql,
      [mayLead],
      this.#answerWithinMs,
    )
    const { elected, wall, next } = present(rows[0], 'a row')
    if (next !== null) this.#place = next ? 'first in line' : 'behind'
    const flownMs = this.#clock.monotonicMs() - sentMs
    const standing = elected === null ? 'not a primary' : elected ? 'elected' : 'not elected'
    const offsetMs = wallMsOfHlc(toHlc(BigInt(wall))) - (wallMs + flownMs / 2)
    return { standing, walls: { offsetMs, uncertainMs: flownMs / 2 } }
  }

  /** Tells the keeper who waits; rank 1 is better than nobody and tells nothing. */
  async announce(rank: CandidateRank): Promise<void> {
    if (rank === this.#announced) return
    if (this.#announced > 1) await this.#connection.query(withdrawSql, [this.#announced], this.#answerWithinMs)
    if (rank > 1) await this.#connection.query(announceSql, [rank], this.#answerWithinMs)
    if (this.#place === 'first in line') await this.#connection.query(leaveLineSql, [], this.#answerWithinMs)
    this.#place = 'unknown'
    this.#announced = rank
  }

  /** Whether somebody waits who would be a better keeper. */
  async seesBetter(rank: CandidateRank): Promise<boolean> {
    if (rank === 3) return false
    const { rows } = await this.#connection.query<{ better: boolean }>(betterSql, [rank], this.#answerWithinMs)
    return present(rows[0], 'a row').better
  }
}
