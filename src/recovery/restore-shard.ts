import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { present } from '../base/assert.ts'
import { HoldfastError } from '../base/errors.ts'
import type { ShardArchive } from '../archive/archive.ts'
import { readStaged } from '../archive/wal-staging.ts'
import type { ShardName } from '../directory/topology.ts'
import { ConnectionLost, ServerError } from '../postgres/failure.ts'
import { quoteIdentifier } from '../postgres/identifier.ts'
import type { Lsn } from '../postgres/lsn.ts'
import { formatLsn } from '../postgres/lsn.ts'
import { withConnection } from '../postgres/postgres.ts'
import { giveTo } from '../postgres/server/data-directory.ts'
import { promote } from '../postgres/server/follower.ts'
import type { ServerAddress } from '../postgres/server/server-host.ts'
import { checkpointRecordBytes, discardStatesBehindBackup } from '../postgres/server/two-phase-files.ts'
import type { Stop } from './cut.ts'
import type { RecoveryContext } from './recovery.ts'
import type { ShardPlan } from './restore-plan.ts'
import * as store from './restore-store.ts'

/** The physical part of a restore, for one shard: a data directory, a replay to the stop, a promotion. */

/** Where the server of a shard of an environment is. */
export interface EnvironmentServer {
  readonly id: string
  readonly dataDir: string
  readonly address: ServerAddress
}

export type Servers = ReadonlyMap<ShardName, EnvironmentServer>

export function serverOf(servers: Servers, shard: ShardName): EnvironmentServer {
  return present(servers.get(shard), `${shard} has a restored server`)
}

export interface ServerPlace {
  readonly serverId: string
  readonly dataDir: string
  /** Verified copies of the log that the replay reads. */
  readonly walDir: string
}

const promoteWithinSeconds = 60
const pollMs = 10
/** One record may take long, e.g. where a large table was emptied; no record takes this long. */
const stallMs = 5 * 60_000
/** A page of the log begins with up to this many bytes of header, between two records. */
const pageHeaderBytesMax = 40n
const accessFile = 'holdfast.environment.hba.conf'

/** Unpacks the base backup and puts the log beside it. */
export async function fetchBackup(
  { user, signal }: RecoveryContext,
  archive: ShardArchive,
  { backup, timeline, stop }: ShardPlan,
  { dataDir, walDir }: ServerPlace,
): Promise<{ bytes: number }> {
  await archive.extractBaseBackup(backup.id, dataDir, user, signal)
  const range = { history: timeline, from: backup.startLsn, to: stop.kind === 'before' ? stop.lsn : stop.through }
  const staged = await archive.stageWal(walDir, range, user, signal)
  await discardStatesBehindBackup(dataDir, (at) => readStaged(walDir, at, checkpointRecordBytes))
  return { bytes: backup.bytes + staged.bytes }
}

/** Settings of a server that belongs to nobody (R8). */
export function isolatedSettings({ serverSettings }: RecoveryContext, dataDir: string): Record<string, string> {
  return {
    ...serverSettings,
    archive_mode: 'off',
    synchronous_standby_names: '',
    primary_conninfo: '',
    primary_slot_name: '',
    sync_replication_slots: 'off',
    hot_standby: 'on',
    hba_file: join(dataDir, accessFile),
  }
}

/**
 * Starts the server in recovery towards its stop, and resolves when it is paused there. The stop is explicit, and a server
 * that runs out of log before it ends instead of opening (HZ-A2). Throws `archive_gap`, `check_failed`, and `server_failed` when the
 * replay stands still.
 */
export async function replayToStop(
  context: RecoveryContext,
  plan: ShardPlan,
  { serverId: id, dataDir, walDir }: ServerPlace,
): Promise<EnvironmentServer> {
  const { host, user } = context
  await refuseStrangers(context, dataDir)
  const marker = join(dataDir, 'recovery.signal')
  await writeFile(marker, '', { mode: 0o600 })
  await giveTo(user, marker)
  const settings = {
    ...isolatedSettings(context, dataDir),
    restore_command: `cp ${shellQuote(walDir)}/%f %p`,
    recovery_target_lsn: formatLsn(plan.stop.lsn),
    recovery_target_inclusive: plan.stop.kind === 'before' ? 'off' : 'on',
    recovery_target_action: 'pause',
    recovery_target_timeline: String(plan.timeline.timeline),
  }
  const address = await host.start({ id, dataDir, settings })
  const server = { id, dataDir, address }
  await waitPaused(context, plan, server)
  return server
}

/** However long it takes, as long as it moves. */
async function waitPaused(context: RecoveryContext, plan: ShardPlan, server: EnvironmentServer): Promise<void> {
  const { host, clock, signal } = context
  try {
    await withConnection(host.adminTarget(server.address), async (admin) => {
      let last: Lsn | null = null
      let movedAt = clock.monotonicMs()
      for (;;) {
        signal?.throwIfAborted()
        const state = await store.readReplayState(admin)
        if (!state.inRecovery) throw notReached(plan, 'opened for writing by itself')
        if (state.paused) {
          if (state.replayed !== null && hasReached(plan.stop, state.replayed)) return
          throw notReached(plan, `paused at ${state.replayed === null ? 'no position' : formatLsn(state.replayed)}`)
        }
        if (state.replayed !== last) movedAt = clock.monotonicMs()
        last = state.replayed
        if (clock.monotonicMs() - movedAt > stallMs) throw standsStill(plan, server, last)
        await clock.sleep(pollMs)
      }
    })
  } catch (error) {
    if (!(error instanceof ConnectionLost || error instanceof ServerError)) throw error
    throw new HoldfastError('archive_gap', `the replay of ${plan.shard} ended before ${formatLsn(plan.stop.lsn)}`, {
      hint: `the log of the server ${server.id} says why`,
      detail: { shard: plan.shard },
      cause: error,
    })
  }
}

/** The replayed position is the end of the last record, which the next one follows but for a page header. */
export function hasReached(stop: Stop, replayed: bigint): boolean {
  if (stop.kind === 'after') return replayed === stop.through
  return replayed <= stop.lsn && stop.lsn - replayed <= pageHeaderBytesMax
}

function notReached(plan: ShardPlan, what: string): HoldfastError {
  const stop = `${plan.stop.kind} ${formatLsn(plan.stop.lsn)}`
  return new HoldfastError('check_failed', `the replay of ${plan.shard} should stop ${stop} and ${what}`, {
    detail: { shard: plan.shard },
  })
}

function standsStill(plan: ShardPlan, { id }: EnvironmentServer, at: Lsn | null): HoldfastError {
  const position = at === null ? 'before its first record' : `at ${formatLsn(at)}`
  return new HoldfastError('server_failed', `the replay of ${plan.shard} stands still ${position} for ${stallMs} ms`, {
    hint: `the log of the server ${id} may say why; restore again`,
    detail: { shard: plan.shard },
  })
}

/** Ends the recovery on a timeline of its own, and closes the shard. Throws `check_failed` when the timeline is known. */
export async function endRecovery(
  { host, user }: RecoveryContext,
  archive: ShardArchive,
  server: EnvironmentServer,
): Promise<{ timeline: number }> {
  return withConnection(host.adminTarget(server.address), async (admin) => {
    await promote(admin, { dataDir: server.dataDir, user }, promoteWithinSeconds)
    await store.isolate(admin)
    await store.keepLog(admin)
    await admin.query('checkpoint')
    const timeline = await store.readTimeline(admin)
    const { timeline: newest } = await archive.timelineHistory()
    if (timeline > newest) return { timeline }
    throw new HoldfastError('check_failed', `${server.id} took timeline ${timeline}, which is archived already`)
  })
}

/** Only the administrator comes in, whatever the restored access file says. */
async function refuseStrangers({ host, user }: RecoveryContext, dataDir: string): Promise<void> {
  const admin = host.adminTarget({ host: '/', port: 0 }).user
  const path = join(dataDir, accessFile)
  const lines = [`local all ${quoteIdentifier(admin)} scram-sha-256`, 'local all all reject', 'host all all all reject']
  await writeFile(path, `${lines.join('\n')}\n`, { mode: 0o600 })
  await giveTo(user, path)
}

/** PostgreSQL hands `restore_command` to a shell; a percent sign would begin one of its own placeholders. */
function shellQuote(path: string): string {
  return `'${path.replaceAll("'", `'\\''`).replaceAll('%', '%%')}'`
}
