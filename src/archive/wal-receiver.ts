import { present } from '../base/assert.ts'
import type { Clock } from '../base/clock.ts'
import type { ConnectionTarget } from '../postgres/statement.ts'
import { ServerError } from '../postgres/failure.ts'
import type { Lsn } from '../postgres/lsn.ts'
import { ReplicationConnection } from '../postgres/replication.ts'
import type { ReplicationStream } from '../postgres/replication-stream.ts'
import { sqlState } from '../postgres/sqlstate.ts'
import type { ArchiveFolder, ArchiveIdentity } from './archive-folder.ts'
import { untilAborted } from './retrying.ts'
import { SegmentWriter } from './segment-writer.ts'
import { archiveHistory } from './timeline-archive.ts'
import type { TimelineHistory } from './timeline.ts'
import { listSegments } from './wal-inventory.ts'
import { nextSegment } from './wal-resume.ts'
import { segmentNumber, segmentStart } from './wal-segment.ts'

/**
 * Receives the log of the primary into the archive, as a follower does, through a physical slot that keeps what was not
 * received yet. It tells the server what is flushed here, so it can be one of the synchronous followers: then an
 * acknowledged commit survives the loss of every disk of the shard.
 *
 * One batch of what has arrived is written, flushed and reported at a time. So under load many commits share a flush,
 * and an idle shard's commit does not wait for one. A receiver that no commit waits for lets `gatherMs` pass in between.
 */
export interface WalReceiverOptions {
  readonly folder: ArchiveFolder
  /** The primary of this moment, with a role that has `replication`. Its application name names this receiver. */
  readonly primary: () => ConnectionTarget
  readonly slot: string
  /** Milliseconds from one batch to the next; 0 for a synchronous follower. */
  readonly gatherMs: number
  readonly clock: Clock
  readonly onEvent: (event: WalReceiverEvent) => void
}

export type WalReceiverEvent =
  | { readonly kind: 'interrupted'; readonly part: 'wal'; readonly error: unknown }
  /** The server no longer has this part of the log, and the archive has not: restores need a new base backup. */
  | { readonly kind: 'log_lost'; readonly from: Lsn; readonly to: Lsn }
  | { readonly kind: 'timeline_followed'; readonly timeline: number }

/** How often a receiver that waits looks whether it is to stop. */
const wakeEveryMs = 1_000

export class WalReceiver {
  readonly #options: WalReceiverOptions
  /** The segment that the server said it has no more; the next attempt goes on behind it. */
  #removed: bigint | undefined

  constructor(options: WalReceiverOptions) {
    this.#options = options
  }

  /** Receives until the signal is aborted. Failures are reported and followed by another attempt. */
  run(signal: AbortSignal): Promise<void> {
    const { clock, onEvent } = this.#options
    return untilAborted(
      signal,
      clock,
      () => this.#attempt(signal),
      (error) => onEvent({ kind: 'interrupted', part: 'wal', error }),
    )
  }

  async #attempt(signal: AbortSignal): Promise<void> {
    const { primary, clock, folder, slot } = this.#options
    const connection = await ReplicationConnection.connect(primary(), 'physical', clock)
    const close = () => connection.close()
    signal.addEventListener('abort', close, { once: true })
    try {
      const { systemId, timeline } = await connection.identifySystem()
      const identity = { systemId, segmentBytes: await connection.walSegmentBytes() }
      await folder.claim(identity)
      const history = await archiveHistory(connection, folder, timeline)
      const slotStart = await openSlot(connection, slot)
      await this.#receive(connection, identity, history, slotStart, signal)
    } finally {
      signal.removeEventListener('abort', close)
      connection.close()
    }
  }

  /** From one timeline of the server's history to the next, to its newest. */
  async #receive(
    connection: ReplicationConnection,
    { segmentBytes }: ArchiveIdentity,
    history: TimelineHistory,
    slotStart: Lsn,
    signal: AbortSignal,
  ): Promise<void> {
    const { folder, slot, onEvent } = this.#options
    while (!signal.aborted) {
      const inventory = await listSegments(folder, segmentBytes)
      let next = nextSegment(inventory, history, segmentBytes, slotStart)
      if (next.number === this.#removed && segmentNumber(slotStart, segmentBytes) > next.number) {
        next = nextSegment(new Map(), history, segmentBytes, slotStart)
        onEvent({
          kind: 'log_lost',
          from: segmentStart(this.#removed, segmentBytes),
          to: segmentStart(next.number, segmentBytes),
        })
      }
      const writer = new SegmentWriter(folder, segmentBytes, next)
      try {
        const stream = await connection.startPhysical(slot, segmentStart(next.number, segmentBytes), next.timeline)
        onEvent({ kind: 'timeline_followed', timeline: next.timeline })
        await this.#write(stream, writer, signal)
      } catch (error) {
        if (error instanceof ServerError && error.sqlState === sqlState.undefinedFile) this.#removed = next.number
        throw error
      } finally {
        await writer.close()
      }
    }
  }

  /** Until the server has no more on this timeline. */
  async #write(stream: ReplicationStream, writer: SegmentWriter, signal: AbortSignal): Promise<void> {
    const { gatherMs, clock } = this.#options
    while (!signal.aborted) {
      const { messages, ended } = await stream.receive(wakeEveryMs)
      for (const { start, bytes } of messages) if (bytes !== null) await writer.write(start, bytes)
      const flushed = await writer.flush()
      if (messages.some(({ bytes }) => bytes !== null)) stream.report({ written: flushed, flushed, applied: flushed })
      if (ended !== null) return
      if (gatherMs > 0) await clock.sleep(gatherMs, signal)
    }
  }
}

/** From where the slot keeps the log. One that lost its hold, by a limit of the server, is made anew. */
async function openSlot(connection: ReplicationConnection, slot: string): Promise<Lsn> {
  const start = await connection.physicalSlotStart(slot)
  if (start !== undefined) return start
  await connection.dropSlot(slot)
  await connection.createPhysicalSlot(slot)
  return present(await connection.physicalSlotStart(slot), 'a slot that reserves the log has a start')
}
