import type { Clock } from '../base/clock.ts'
import type { ShardName } from '../directory/topology.ts'
import type { ConnectionTarget } from '../postgres/statement.ts'
import { Connection } from '../postgres/connection.ts'
import { elect } from '../postgres/election.ts'
import type { Settings } from '../postgres/server/data-directory.ts'
import { createSlot } from '../postgres/server/follower.ts'
import { ArchiveFolder } from './archive-folder.ts'
import type { RedoStreamEvent } from './redo-stream.ts'
import { RedoStream, reserveRedo } from './redo-stream.ts'
import { untilAborted } from './retrying.ts'
import type { WalReceiverEvent } from './wal-receiver.ts'
import { WalReceiver } from './wal-receiver.ts'

/**
 * Keeps the archive of one shard up: receives its log and streams its transactions, for as long as it is elected.
 *
 * Every gateway may run one; a session advisory lock on the primary elects one of them, so an archiver that dies gives
 * it up without doing anything. Two that both believe they are elected do no harm: a slot has one reader.
 */
export interface ArchiverOptions {
  /** The archive of a region that is legal for the shard's data. */
  readonly root: string
  readonly shard: ShardName
  /** Where the fleet remembers that it has this archive (A8). */
  readonly memoryDir?: string
  /**
   * The shard's database on its primary, with a role that has `replication`; undefined while there is no primary. The
   * application name is the receiver's.
   */
  readonly primary: () => ConnectionTarget | undefined
  readonly clock: Clock
  readonly onEvent: (event: ArchiverEvent) => void
}

export type ArchiverEvent =
  | WalReceiverEvent
  | RedoStreamEvent
  | { readonly kind: 'elected' }
  | { readonly kind: 'interrupted'; readonly part: 'election'; readonly error: unknown }

export const walSlot = 'hf_archive'
export const redoSlot = 'hf_redo'

/** Between attempts to be elected, and between looks whether the election still stands. */
const electionMs = 500
/** One that was stopped keeps its connection, and the election with it, for so long. */
const silentForMsMax = 10_000
/** No commit waits for the archive. */
const gatherMs = 10
const connectWithinMs = 5_000
const answerWithinMs = 10_000

/** What the servers of a shard that is archived must be set to, primary and followers alike. */
export function requiredServerSettings(serverMajor: number): Settings {
  return {
    wal_level: 'logical',
    // Two senders and two slots are the archive's, beside those of the followers and of base backups.
    max_wal_senders: 20,
    max_replication_slots: 20,
    // A promoted follower has no slot of the receiver yet: this is what the receiver may be behind without a gap.
    wal_keep_size: '256MB',
    // Who is away may not fill the disk of the primary. Past it, the archive says what it has lost, and a follower is
    // built anew (V9).
    max_slot_wal_keep_size: '2GB',
    // A slot on a follower keeps the rows of the catalogue that decoding needs.
    hot_standby_feedback: true,
    // From 17 on followers carry the slot of the redo stream; before, a promotion leaves a stated hole (HZ-R2).
    ...(serverMajor >= 17 ? { sync_replication_slots: true } : {}),
  }
}

/**
 * Makes the archive's slots on a primary that takes no traffic yet: from here on nothing is written that the archive
 * cannot have, even if no archiver runs for a while.
 */
export async function reserveForArchive(primary: ConnectionTarget, clock: Clock): Promise<void> {
  await createSlot(primary, walSlot)
  await reserveRedo(primary, redoSlot, clock)
}

export class Archiver {
  readonly #options: ArchiverOptions

  constructor(options: ArchiverOptions) {
    this.#options = options
  }

  /** Runs until the signal is aborted. Failures are reported and followed by another attempt. */
  run(signal: AbortSignal): Promise<void> {
    const { clock, onEvent } = this.#options
    return untilAborted(
      signal,
      clock,
      () => this.#attempt(signal),
      (error) => onEvent({ kind: 'interrupted', part: 'election', error }),
    )
  }

  async #attempt(signal: AbortSignal): Promise<void> {
    const target = this.#options.primary()
    if (target === undefined) return
    const connection = await Connection.connect({ ...target, applicationName: 'archiver' }, connectWithinMs)
    try {
      if (await this.#elect(connection, target, signal)) await this.#serve(connection, target, signal)
    } finally {
      connection.release()
    }
  }

  #elect(connection: Connection, target: ConnectionTarget, signal: AbortSignal): Promise<boolean> {
    const { clock } = this.#options
    const isPrimary = () => this.#isPrimary(target)
    const candidacy = {
      lock: 'holdfast.archiver',
      everyMs: electionMs,
      silentForMsMax,
      isPrimary,
      clock,
      answerWithinMs,
    }
    return elect(connection, candidacy, signal)
  }

  /** Archives until the primary is another one, the lock is lost or the signal is aborted. */
  async #serve(connection: Connection, target: ConnectionTarget, signal: AbortSignal): Promise<void> {
    const { root, shard, memoryDir, clock, onEvent } = this.#options
    onEvent({ kind: 'elected' })
    const folder = new ArchiveFolder(root, shard, memoryDir)
    const ending = new AbortController()
    const both = { folder, primary: () => target, clock, onEvent }
    const receiver = new WalReceiver({ ...both, slot: walSlot, gatherMs })
    const redo = new RedoStream({ ...both, slot: redoSlot })
    const running = Promise.all([receiver.run(ending.signal), redo.run(ending.signal)])
    try {
      while (this.#isPrimary(target)) {
        await clock.sleep(electionMs, signal)
        await connection.query('select', [], answerWithinMs)
      }
    } finally {
      ending.abort()
      await running
    }
  }

  #isPrimary(target: ConnectionTarget): boolean {
    const now = this.#options.primary()
    return now?.host === target.host && now.port === target.port
  }
}
