import type { Clock } from '../base/clock.ts'
import type { ConnectionTarget } from '../postgres/statement.ts'
import { Connection } from '../postgres/connection.ts'
import { ServerError } from '../postgres/failure.ts'
import type { Lsn } from '../postgres/lsn.ts'
import { lsnZero } from '../postgres/lsn.ts'
import { ReplicationConnection } from '../postgres/replication.ts'
import { sqlState } from '../postgres/sqlstate.ts'
import type { ArchiveFolder } from './archive-folder.ts'
import { RedoSession } from './redo-session.ts'
import { readClock, readHighestStamp, readSlot } from './redo-store.ts'
import { RedoWriter } from './redo-writer.ts'
import { untilAborted } from './retrying.ts'
import { archiveHistory } from './timeline-archive.ts'

/**
 * Streams what the shard commits, decoded, into the redo stream of the archive.
 *
 * Three positions are kept apart. *Received* is how far the server has decoded and sent. *Replicated* is how far a
 * promotion cannot lose anything: a transaction behind it is held in memory (A5), because a logical decoder sees a
 * commit as soon as the primary has flushed it, which is before any follower has (HZ-R2). *Stored* is how far the
 * archive has everything on its disk, and the only one that the server is told (A1).
 *
 * A prepared transaction is decoded when it is committed, at the place of that record.
 */
export interface RedoStreamOptions {
  readonly folder: ArchiveFolder
  /** The shard's database on the primary of this moment, with a role that has `replication`. */
  readonly primary: () => ConnectionTarget
  readonly slot: string
  readonly clock: Clock
  readonly onEvent: (event: RedoStreamEvent) => void
  readonly segmentBytesMax?: number
}

export type RedoStreamEvent =
  | { readonly kind: 'interrupted'; readonly part: 'redo'; readonly error: unknown }
  /** Transactions between these positions will never be in the stream: the slot was lost, or bytes of the archive. */
  | { readonly kind: 'redo_lost'; readonly from: Lsn; readonly to: Lsn }

export const publication = 'holdfast_redo'
const connectWithinMs = 10_000
/** The first version whose followers synchronise logical slots. */
const slotsCarriedFrom = 17
const segmentBytesMaxDefault = 16 << 20
export class RedoStream {
  readonly #options: RedoStreamOptions

  constructor(options: RedoStreamOptions) {
    this.#options = options
  }

  /** Streams until the signal is aborted. Failures are reported and followed by another attempt. */
  run(signal: AbortSignal): Promise<void> {
    const { clock, onEvent } = this.#options
    return untilAborted(
      signal,
      clock,
      () => this.#attempt(signal),
      (error) => onEvent({ kind: 'interrupted', part: 'redo', error }),
    )
  }

  async #attempt(signal: AbortSignal): Promise<void> {
    const { primary, clock } = this.#options
    const replication = await ReplicationConnection.connect(primary(), 'logical', clock)
    const close = () => replication.close()
    signal.addEventListener('abort', close, { once: true })
    try {
      const beside = await Connection.connect(primary(), connectWithinMs)
      try {
        await this.#session(replication, beside, signal)
      } finally {
        beside.release()
      }
    } finally {
      signal.removeEventListener('abort', close)
      replication.close()
    }
  }

  async #session(replication: ReplicationConnection, beside: Connection, signal: AbortSignal): Promise<void> {
    const { folder, slot, clock, onEvent, segmentBytesMax = segmentBytesMaxDefault } = this.#options
    const { systemId, timeline } = await replication.identifySystem()
    const segmentBytes = await replication.walSegmentBytes()
    await folder.claim({ systemId, segmentBytes })
    const history = await archiveHistory(replication, folder, timeline)
    const isSlotCarried = (await replication.serverMajor()) >= slotsCarriedFrom
    const highestStamp = await readHighestStamp(beside)
    await openSlot(replication, beside, slot)
    // Who has the slot is the only writer; so it comes before the look at what is stored.
    const stream = await replication.startLogical(slot, lsnZero, { proto_version: '1', publication_names: publication })
    const confirmed = (await readSlot(beside, slot))?.confirmed ?? lsnZero
    const shardClock = await readClock(beside)
    const writer = await RedoWriter.open(
      { folder, systemId, history, segmentBytesMax },
      { confirmed, highestStamp, clock: shardClock },
    )
    try {
      if (writer.hole !== null) onEvent({ kind: 'redo_lost', ...writer.hole })
      await new RedoSession({ clock, stream, beside, writer, segmentBytes, isSlotCarried }).run(signal)
    } finally {
      await writer.close()
    }
  }
}

const reserveWithinMs = 20_000
const reserveLookMs = 50

/**
 * Makes the slot on a primary unless it is there, so that nothing can be written before the stream will have it. An archiver may
 * make it at the same time: a slot counts when it says where it begins.
 */
export async function reserveRedo(primary: ConnectionTarget, slot: string, clock: Clock): Promise<void> {
  const replication = await ReplicationConnection.connect(primary, 'logical', clock)
  try {
    const beside = await Connection.connect(primary, connectWithinMs)
    try {
      // One that is there is the archiver's already: while it is read, nothing about it can be changed.
      for (const untilMs = clock.monotonicMs() + reserveWithinMs; ; await clock.sleep(reserveLookMs)) {
        const state = await readSlot(beside, slot)
        if (state !== undefined && state.confirmed !== null) return
        if (state === undefined && (await isMade(replication.createLogicalSlot(slot)))) return
        if (clock.monotonicMs() > untilMs) throw new Error(`replication slot ${slot} does not become ready`)
      }
    } finally {
      beside.release()
    }
  } finally {
    replication.close()
  }
}

/** False when another made it first. */
async function isMade(creation: Promise<unknown>): Promise<boolean> {
  try {
    await creation
    return true
  } catch (error) {
    if (error instanceof ServerError && error.sqlState === sqlState.duplicateObject) return false
    throw error
  }
}

/** Makes the slot unless it is there and of use. */
async function openSlot(replication: ReplicationConnection, beside: Connection, slot: string): Promise<void> {
  const state = await readSlot(beside, slot)
  if (state !== undefined && !state.isLost) {
    // Whoever else made it may not have said that followers shall carry it.
    if ((await replication.serverMajor()) >= slotsCarriedFrom) await replication.carryOverFailover(slot)
    return
  }
  if (state !== undefined) await replication.dropSlot(slot)
  await replication.createLogicalSlot(slot)
}
