import { present } from '../../src/base/assert.ts'
import { ArchiveFolder } from '../../src/archive/archive-folder.ts'
import type { TimelineHistory } from '../../src/archive/timeline.ts'
import { firstTimeline } from '../../src/archive/timeline.ts'
import type { WalAudit } from '../../src/archive/wal-audit.ts'
import { auditWal } from '../../src/archive/wal-reader.ts'
import type { WalReceiverEvent } from '../../src/archive/wal-receiver.ts'
import { WalReceiver } from '../../src/archive/wal-receiver.ts'
import { openArchive, type ShardArchive } from '../../src/archive/archive.ts'
import type { RedoStreamEvent } from '../../src/archive/redo-stream.ts'
import { RedoStream } from '../../src/archive/redo-stream.ts'
import type { RedoTransaction } from '../../src/archive/redo-transaction.ts'
import { systemClock } from '../../src/base/clock.ts'
import type { ShardName } from '../../src/directory/topology.ts'
import type { Connection } from '../../src/postgres/connection.ts'
import type { ConnectionTarget } from '../../src/postgres/statement.ts'
import type { Lsn } from '../../src/postgres/lsn.ts'
import { parseLsn } from '../../src/postgres/lsn.ts'

export const testShard = 'eu-west/payroll' as ShardName

/** Something that runs until it is stopped. */
export interface Running {
  stop(): Promise<void>
}

export function start(run: (signal: AbortSignal) => Promise<void>): Running {
  const abort = new AbortController()
  const running = run(abort.signal)
  return {
    stop: async () => {
      abort.abort()
      await running
    },
  }
}

export interface RunningReceiver extends Running {
  readonly events: readonly WalReceiverEvent[]
}

export function startReceiver(folder: ArchiveFolder, primary: () => ConnectionTarget): RunningReceiver {
  const events: WalReceiverEvent[] = []
  const receiver = new WalReceiver({
    folder,
    primary: () => ({ ...primary(), applicationName: 'archive' }),
    slot: 'hf_archive',
    gatherMs: 0,
    clock: systemClock,
    onEvent: (event) => events.push(event),
  })
  return { ...start((signal) => receiver.run(signal)), events }
}

export async function currentLsn(connection: Connection): Promise<Lsn> {
  const { rows } = await connection.query<{ lsn: string }>('select pg_current_wal_insert_lsn()::text as lsn')
  return parseLsn(present(rows[0], 'a row').lsn)
}

/** Waits until the archive has the log up to a position. */
export async function archivedThrough(
  folder: ArchiveFolder,
  from: Lsn,
  to: Lsn,
  history: TimelineHistory = firstTimeline,
): Promise<WalAudit> {
  for (;;) {
    const audit = await auditWal(folder, { history, from }, 'names').catch(() => undefined)
    if (audit !== undefined && audit.contiguousThrough >= to) return audit
    await systemClock.sleep(20)
  }
}

export interface RunningRedo extends Running {
  readonly events: readonly RedoStreamEvent[]
}

export function startRedo(
  folder: ArchiveFolder,
  primary: () => ConnectionTarget,
  segmentBytesMax = 16 << 20,
): RunningRedo {
  const events: RedoStreamEvent[] = []
  const onEvent = (event: RedoStreamEvent) => events.push(event)
  const stream = new RedoStream({ folder, primary, slot: 'hf_redo', clock: systemClock, onEvent, segmentBytesMax })
  return { ...start((signal) => stream.run(signal)), events }
}

export function archiveOf(root: string): ShardArchive {
  return openArchive({ root, shard: testShard })
}

export async function readAll(
  archive: ShardArchive,
  range: { readonly from?: Lsn; readonly to?: Lsn; readonly history?: TimelineHistory } = {},
): Promise<RedoTransaction[]> {
  const all: RedoTransaction[] = []
  for await (const transaction of archive.readRedo(range)) all.push(transaction)
  return all
}

/** Waits until the redo stream has everything up to a position, and reads it. */
export async function redoUpTo(archive: ShardArchive, to: Lsn): Promise<RedoTransaction[]> {
  for (;;) {
    const through = await archive.redoThrough()
    if (through !== undefined && through.lsn >= to) return readAll(archive)
    await systemClock.sleep(20)
  }
}
