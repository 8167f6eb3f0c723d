import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import { present } from '../base/assert.ts'
import type { Clock } from '../base/clock.ts'
import { formatWallMs } from '../base/clock.ts'
import { storeDurably } from '../base/durable-files.ts'
import { HoldfastError } from '../base/errors.ts'
import type { PlacementDecision } from '../directory/policy.ts'
import { describeRefusal } from '../directory/policy.ts'
import type { Epoch, HistoryId, RegionName, ShardName } from '../directory/topology.ts'
import type { ConnectionTarget } from '../postgres/statement.ts'
import { Connection } from '../postgres/connection.ts'
import type { Lsn } from '../postgres/lsn.ts'
import { formatLsn, parseLsn } from '../postgres/lsn.ts'
import { ReplicationConnection } from '../postgres/replication.ts'
import { manifestName } from '../postgres/server/backup-manifest.ts'
import { intoArchive, tarName, unpackStored } from '../postgres/server/backup-sinks.ts'
import { receiveBaseBackup } from '../postgres/server/base-backup.ts'
import { forgetOrigin } from '../postgres/server/data-directory.ts'
import type { ServerUser } from '../postgres/server/server-user.ts'
import type { ArchiveFolder } from './archive-folder.ts'
import { createFolder, readOptional } from './archive-folder.ts'
import { archiveHistory } from './timeline-archive.ts'
import { listNames, sizeOf } from './wal-inventory.ts'

/** One whole base backup, as the archive lists it. */
export interface BaseBackupEntry {
  /** Sorts by age, e.g. `20260402T100005.120Z`. */
  readonly id: string
  readonly shard: ShardName
  /** The region whose archive this is. */
  readonly region: RegionName
  /** The log from here must be replayed, at least to `stopLsn`. */
  readonly startLsn: Lsn
  /** Before it the backup is not consistent, so no restore from it may stop earlier. */
  readonly stopLsn: Lsn
  readonly timeline: number
  readonly systemId: string
  readonly historyId: HistoryId
  readonly epoch: Epoch
  readonly takenAtMs: number
  readonly postgresVersion: string
  readonly bytes: number
  /** SHA-256 of the stored files, by name. */
  readonly sha256: Readonly<Record<string, string>>
}

export interface BackupSource {
  /** A role with `replication` that may read the `holdfast` schema, in the shard's database on its primary. */
  readonly target: ConnectionTarget
  readonly region: RegionName
  /** What the policy says about a backup of this shard in this region. */
  readonly decision: PlacementDecision
  readonly signal?: AbortSignal
}

/** Stored last: a backup that has one is whole. */
const entryName = 'entry.json'
const connectWithinMs = 10_000
const lockKey = `hashtextextended('holdfast.backup', 0)`

/** Takes a base backup into the archive. Throws `residency_denied`, `disk_full`, `server_failed`. */
export async function takeBaseBackup(
  folder: ArchiveFolder,
  source: BackupSource,
  clock: Clock,
): Promise<BaseBackupEntry> {
  const { target, region, decision } = source
  refuseIllegal(folder.shard, region, decision)
  await claimFor(folder, target, clock)
  const beside = await Connection.connect(target, connectWithinMs)
  try {
    await sweepBrokenOff(folder, beside)
    return await receiveInto(folder, source, clock, await readOrigin(beside))
  } finally {
    beside.release()
  }
}

async function receiveInto(
  folder: ArchiveFolder,
  { target, region, signal }: BackupSource,
  clock: Clock,
  { historyId, epoch, version }: Origin,
): Promise<BaseBackupEntry> {
  const takenAtMs = clock.wallMs()
  const id = formatWallMs(takenAtMs).replaceAll(/[-:]/g, '')
  const path = join(folder.baseFolder, id)
  await createFolder(path)
  try {
    const backup = await receiveBaseBackup({
      target,
      sink: intoArchive(path),
      label: `holdfast ${id}`,
      checkpoint: 'fast',
      ...(signal === undefined ? {} : { signal }),
    })
    const { startLsn, stopLsn, timeline, systemId } = backup
    const sha256 = await checksumsIn(path)
    const bytes = (await sizeOf(join(path, tarName))) + (await sizeOf(join(path, manifestName)))
    const origin = { systemId, historyId, epoch, takenAtMs, postgresVersion: version }
    const entry = { id, shard: folder.shard, region, startLsn, stopLsn, timeline, ...origin, bytes, sha256 }
    await storeDurably(join(path, entryName), Buffer.from(`${formatEntry(entry)}\n`))
    return entry
  } catch (error) {
    await rm(path, { recursive: true, force: true })
    throw error
  }
}

/** The whole ones, oldest first. */
export async function listBaseBackups(folder: ArchiveFolder): Promise<BaseBackupEntry[]> {
  const entries: BaseBackupEntry[] = []
  for (const id of await listNames(folder.baseFolder)) {
    const text = await readOptional(join(folder.baseFolder, id, entryName))
    if (text !== undefined) entries.push(parseEntry(text.toString()))
  }
  return entries
}

/**
 * Unpacks a base backup into a new data directory, held against its manifest. Throws `check_failed`, `disk_full`, and the reason of the
 * signal.
 */
export async function extractBaseBackup(
  folder: ArchiveFolder,
  id: string,
  dataDir: string,
  user: ServerUser | undefined,
  signal?: AbortSignal,
): Promise<BaseBackupEntry> {
  const entry = (await listBaseBackups(folder)).find((candidate) => candidate.id === id)
  if (entry === undefined) {
    throw new HoldfastError('restore_unreachable', `the archive of ${folder.shard} has no base backup ${id}`)
  }
  try {
    await unpackStored(join(folder.baseFolder, id), dataDir, user, signal)
  } catch (error) {
    signal?.throwIfAborted()
    const problems = await verifyBaseBackup(folder, entry)
    if (problems.length === 0) throw error
    throw new HoldfastError('check_failed', `${problems.join(', ')} in the archive of ${folder.shard}`, {
      cause: error,
    })
  }
  await forgetOrigin(dataDir, user)
  return entry
}

/** One sentence for each stored file that is not what its entry says. */
export async function verifyBaseBackup(folder: ArchiveFolder, entry: BaseBackupEntry): Promise<string[]> {
  const path = join(folder.baseFolder, entry.id)
  const problems: string[] = []
  for (const [name, stated] of Object.entries(entry.sha256)) {
    const found = await checksumOf(join(path, name)).catch(() => undefined)
    if (found === undefined) problems.push(`${name} of base backup ${entry.id} cannot be read`)
    else if (found !== stated) problems.push(`${name} of base backup ${entry.id} has another checksum`)
  }
  return problems
}

function refuseIllegal(shard: ShardName, region: RegionName, decision: PlacementDecision): void {
  if (decision.allowed) return
  const reasons = decision.refusals.map((refusal) => describeRefusal(decision.question, refusal))
  const why = reasons.length === 0 ? `${region} is not a region of the fleet` : reasons.join('; ')
  throw new HoldfastError('residency_denied', `no backup of ${shard} may be in ${region}: ${why}`, {
    detail: { refusals: decision.refusals },
  })
}

async function claimFor(folder: ArchiveFolder, target: ConnectionTarget, clock: Clock): Promise<void> {
  const connection = await ReplicationConnection.connect(target, 'physical', clock)
  try {
    const { systemId, timeline } = await connection.identifySystem()
    await folder.claim({ systemId, segmentBytes: await connection.walSegmentBytes() })
    await archiveHistory(connection, folder, timeline)
  } finally {
    connection.close()
  }
}

/**
 * Removes what a backup left whose process was killed: a folder without an entry, when no other is being taken. Each holds the lock
 * shared for as long as its session lasts, which ends with its process.
 */
async function sweepBrokenOff(folder: ArchiveFolder, session: Connection): Promise<void> {
  const { rows } = await session.query<{ alone: boolean }>(`select pg_try_advisory_lock(${lockKey}) as alone`)
  const isAlone = present(rows[0], 'one row').alone
  if (isAlone) {
    for (const id of await listNames(folder.baseFolder)) {
      const path = join(folder.baseFolder, id)
      if ((await readOptional(join(path, entryName))) === undefined) await rm(path, { recursive: true, force: true })
    }
  }
  await session.query(`select pg_advisory_lock_shared(${lockKey})`)
  if (isAlone) await session.query(`select pg_advisory_unlock(${lockKey})`)
}

interface Origin {
  readonly historyId: HistoryId
  readonly epoch: Epoch
  readonly version: string
}

async function readOrigin(session: Connection): Promise<Origin> {
  const { rows } = await session.query<Origin & Record<string, unknown>>(
    `select history_id as "historyId", epoch, current_setting('server_version') as version from holdfast.shard`,
  )
  return present(rows[0], 'a founded shard has one row of itself')
}

async function checksumsIn(path: string): Promise<Record<string, string>> {
  const names = [tarName, manifestName]
  const checksums: [string, string][] = []
  for (const name of names) checksums.push([name, await checksumOf(join(path, name))])
  return Object.fromEntries(checksums)
}

/** Reads back what lies on the disk: what was sent is not the question. */
async function checksumOf(path: string): Promise<string> {
  const hash = createHash('sha256')
  for await (const chunk of createReadStream(path, { highWaterMark: 1 << 20 })) hash.update(chunk)
  return hash.digest('hex')
}

function formatEntry(entry: BaseBackupEntry): string {
  return JSON.stringify({ ...entry, startLsn: formatLsn(entry.startLsn), stopLsn: formatLsn(entry.stopLsn) }, null, 2)
}

/** An entry of ours; whether the files are what it says, its checksums tell. */
function parseEntry(text: string): BaseBackupEntry {
  const plain = JSON.parse(text) as Omit<BaseBackupEntry, 'startLsn' | 'stopLsn'> & {
    startLsn: string
    stopLsn: string
  }
  return { ...plain, startLsn: parseLsn(plain.startLsn), stopLsn: parseLsn(plain.stopLsn) }
}
