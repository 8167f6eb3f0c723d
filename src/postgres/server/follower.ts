import { rename, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { present } from '../../base/assert.ts'
import type { Clock } from '../../base/clock.ts'
import { systemClock } from '../../base/clock.ts'
import { HoldfastError } from '../../base/errors.ts'
import type { ConnectionTarget } from '../statement.ts'
import { Connection } from '../connection.ts'
import { ServerError } from '../failure.ts'
import type { Lsn } from '../lsn.ts'
import { parseLsn } from '../lsn.ts'
import { ReplicationConnection } from '../replication.ts'
import { sqlState } from '../sqlstate.ts'
import { verifyManifest } from './backup-manifest.ts'
import { intoDirectory } from './backup-sinks.ts'
import type { BaseBackup } from './base-backup.ts'
import { receiveBaseBackup } from './base-backup.ts'
import { forgetOrigin, giveTo, upstreamFile, writeSettings } from './data-directory.ts'
import type { ServerUser } from './server-user.ts'
import { checkpointRecordBytes, discardStatesBehindBackup } from './two-phase-files.ts'

/** Followers by streaming replication: built from a running primary, pointed at another, promoted. */

export interface Upstream {
  /** Where the follower reaches its primary, with a role that has `replication`. */
  readonly primary: ConnectionTarget
  /** What the primary knows the follower by, in `synchronous_standby_names` and `pg_stat_replication`. */
  readonly applicationName: string
  /** A physical slot on the primary, which keeps the log that the follower has not received yet. */
  readonly slot: string
}

export interface BuildFollowerOptions {
  readonly upstream: Upstream
  readonly dataDir: string
  readonly user: ServerUser | undefined
  readonly signal?: AbortSignal
}

const pollMs = 10
const readWithinMs = 10_000

/**
 * Builds the data directory of a follower, ready for `LocalServer.start`. The slot is made first, so that no log
 * is dropped between the backup and the first connection. Until it is verified the copy has another name: a build
 * that was broken off leaves no data directory, and the next one begins anew.
 */
export async function buildFollower(options: BuildFollowerOptions): Promise<BaseBackup> {
  const { upstream, dataDir, user, signal } = options
  const building = `${dataDir}.building`
  await rm(building, { recursive: true, force: true })
  try {
    await createSlot(upstream.primary, upstream.slot)
    const backup = await receiveBaseBackup({
      target: upstream.primary,
      sink: intoDirectory(building, user),
      label: upstream.applicationName,
      checkpoint: 'fast',
      ...(signal === undefined ? {} : { signal }),
    })
    await verifyManifest(building)
    await discardStatesBehindBackup(building, (at, timeline) => readLog(upstream, at, timeline))
    await forgetOrigin(building, user)
    await follow(building, upstream, user)
    await rename(building, dataDir)
    return backup
  } catch (error) {
    await rm(building, { recursive: true, force: true })
    throw error
  }
}

/** What the primary's log has from a position on, which the slot keeps. */
async function readLog({ primary, slot }: Upstream, at: Lsn, timeline: number) {
  const connection = await ReplicationConnection.connect(primary, 'physical', systemClock)
  try {
    const segmentBytes = await connection.walSegmentBytes()
    const stream = await connection.startPhysical(slot, at, timeline)
    let bytes = Buffer.alloc(0)
    while (bytes.length < checkpointRecordBytes) {
      const { messages, ended } = await stream.receive(readWithinMs)
      if (messages.length === 0 || ended !== null) break
      bytes = Buffer.concat([bytes, ...messages.flatMap((message) => message.bytes ?? [])])
    }
    return { bytes, segmentBytes }
  } finally {
    connection.close()
  }
}

/** Makes a physical slot that keeps the log from now on, unless it is there. */
export async function createSlot(primary: ConnectionTarget, slot: string, clock: Clock = systemClock): Promise<void> {
  const connection = await ReplicationConnection.connect(primary, 'physical', clock)
  try {
    await connection.createPhysicalSlot(slot)
  } catch (error) {
    if (!(error instanceof ServerError && error.sqlState === sqlState.duplicateObject)) throw error
  } finally {
    connection.close()
  }
}

/** Makes a data directory a follower's, or points a follower at another primary: in force after a reload. */
export async function follow(dataDir: string, upstream: Upstream, user: ServerUser | undefined): Promise<void> {
  const settings = { primary_conninfo: conninfo(upstream), primary_slot_name: upstream.slot }
  await writeSettings(dataDir, settings, user, upstreamFile)
  const marker = join(dataDir, 'standby.signal')
  await writeFile(marker, '', { mode: 0o600 })
  await giveTo(user, marker)
}

function conninfo({ primary, applicationName }: Upstream): string {
  const parts = {
    host: primary.host,
    port: primary.port,
    user: primary.user,
    // Only the worker that keeps logical slots on followers connects to a database.
    dbname: primary.database,
    password: primary.password,
    application_name: applicationName,
    sslmode: 'prefer',
  }
  return Object.entries(parts)
    .map(([key, value]) => `${key}='${String(value).replaceAll('\\', '\\\\').replaceAll("'", "\\'")}'`)
    .join(' ')
}

/** Waits until the primary streams to the follower of that name. Throws `server_failed` at the deadline. */
export async function waitStreaming(
  primary: Connection,
  applicationName: string,
  withinMs: number,
  clock: Clock = systemClock,
): Promise<void> {
  const deadline = clock.monotonicMs() + withinMs
  const sql = `select from pg_stat_replication where application_name = $1 and state = 'streaming'`
  while ((await primary.query(sql, [applicationName])).rowCount === 0) {
    if (clock.monotonicMs() > deadline) {
      throw new HoldfastError(
        'server_failed',
        `${applicationName} does not stream from its primary within ${withinMs} ms`,
      )
    }
    await clock.sleep(pollMs)
  }
}

export interface SilenceLimits {
  /** How long its replay may stand still before it counts as not answering. Slow is not silent. */
  readonly stallMs: number
  /** How long all of it may take. */
  readonly withinMs: number
}

/**
 * Waits until a follower whose upstream was taken away, and that was told to reload, receives nothing and never will by
 * itself; gives the end of all it has, which it has replayed then. Throws `server_failed` when it does not come to that.
 *
 * That no receiver is shown proves nothing: one that is just being started is not shown yet, and the process that starts
 * it may not have read its settings again. Two things together do. A session that was begun after the reload and shows no
 * upstream: then the signal to read the settings again has been sent to the startup process as well. And the startup
 * process seen in its pause between two attempts after that: it enters it with every source of log exhausted and the
 * receiver stopped, and reads its settings again when it leaves it, before the next attempt.
 */
export async function waitSilent(
  follower: ConnectionTarget,
  { stallMs, withinMs }: SilenceLimits,
  clock: Clock = systemClock,
): Promise<Lsn> {
  const started = clock.monotonicMs()
  const giveUpAfter = (ms: number) => {
    if (clock.monotonicMs() - started <= ms) return
    throw new HoldfastError('server_failed', `the follower at ${follower.host} did not stop receiving within ${ms} ms`)
  }
  while (!(await isToldOfNoUpstream(follower, stallMs))) {
    giveUpAfter(stallMs)
    await clock.sleep(pollMs)
  }
  const connection = await Connection.connect(follower, stallMs)
  try {
    // A replay that somebody holds would never get to the end of what was received.
    await connection.query('select pg_wal_replay_resume()', [], stallMs)
    let last: Lsn | undefined
    let movedAt = clock.monotonicMs()
    for (;;) {
      // The position is read after the pause was seen: from then on it stands.
      const isExhausted = await isPausedBetweenAttempts(connection, stallMs)
      const replayed = await replayedThrough(connection, stallMs)
      if (isExhausted) return replayed
      if (last === undefined || replayed > last) movedAt = clock.monotonicMs()
      last = replayed
      if (clock.monotonicMs() - movedAt > stallMs) giveUpAfter(0)
      giveUpAfter(withinMs)
      await clock.sleep(pollMs)
    }
  } finally {
    connection.release()
  }
}

/** Asked in a session of its own: one that was begun before the reload says nothing about what was signalled. */
async function isToldOfNoUpstream(follower: ConnectionTarget, answerWithinMs: number): Promise<boolean> {
  const connection = await Connection.connect(follower, answerWithinMs)
  try {
    const sql = `select current_setting('primary_conninfo') = '' as told`
    const { rows } = await connection.query<{ told: boolean }>(sql, [], answerWithinMs)
    return rows[0]?.told === true
  } finally {
    connection.release()
  }
}

/** The startup process is in its pause between two attempts, which it enters with every source of log exhausted. */
export const isExhaustedCondition = `exists (select from pg_stat_activity
  where backend_type = 'startup' and wait_event = 'RecoveryRetrieveRetryInterval')`

async function isPausedBetweenAttempts(follower: Connection, answerWithinMs: number): Promise<boolean> {
  const sql = `select ${isExhaustedCondition} as paused`
  const { rows } = await follower.query<{ paused: boolean }>(sql, [], answerWithinMs)
  return rows[0]?.paused === true
}

async function replayedThrough(follower: Connection, answerWithinMs: number): Promise<Lsn> {
  const sql = 'select pg_last_wal_replay_lsn()::text as replayed'
  const { rows } = await follower.query<{ replayed: string }>(sql, [], answerWithinMs)
  return parseLsn(present(rows[0], 'one row').replayed)
}

/**
 * Promotes a follower and waits until it takes writes, on a new timeline. Who may be promoted is decided
 * elsewhere. Afterwards it forgets its primary. Throws `server_failed` when it did not happen in time.
 */
export async function promote(
  follower: Connection,
  place: { readonly dataDir: string; readonly user: ServerUser | undefined },
  withinSeconds: number,
): Promise<void> {
  const { rows } = await follower.query<{ promoted: boolean }>(
    'select case when pg_is_in_recovery() then pg_promote(true, $1) else true end as promoted',
    [withinSeconds],
    withinSeconds * 1_000 + readWithinMs,
  )
  if (rows[0]?.promoted !== true) {
    throw new HoldfastError(
      'server_failed',
      `the follower in ${place.dataDir} was not promoted within ${withinSeconds} s`,
    )
  }
  await writeSettings(place.dataDir, {}, place.user, upstreamFile)
}
