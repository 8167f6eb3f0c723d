import type { FileHandle } from 'node:fs/promises'
import { mkdir, open } from 'node:fs/promises'
import { dirname } from 'node:path'
import { syncFolder } from '../../base/durable-files.ts'
import { HoldfastError } from '../../base/errors.ts'
import type { DeliveryRecord } from './delivery-record.ts'
import { decodeDelivery, encodeDelivery } from './delivery-record.ts'

/**
 * What became of each event that left, kept where no restore reaches: a file beside the servers, not in them.
 *
 * One JSON object a line, with a checksum, appended and flushed before the caller goes on. Lines are never changed, so
 * the only damage a crash can do is a torn end. It is set apart by the newline that the next append begins with, and
 * left out when reading: what it said was never relied on. A line that is whole and does not match its checksum is
 * another matter: the file cannot be trusted, and nothing may be sent on its word.
 *
 * Nothing is ever taken out of it either: a history that is restored may have any event in its outbox, and evidence
 * counts the deliveries. So it grows with the events, for which it is read a stretch at a time, and not with the attempts:
 * what was said of an event before is not written again.
 *
 * HAZARD: the file is the memory of what the world has seen. Losing it sends everything again that is still in the
 * outbox, with the same keys.
 */

/** So many bytes are read at a time: other work of the process waits while their lines are decoded. */
const stretchBytesDefault = 64 * 1024

/** Every whole record of a journal, in order; none when there is no such file. Throws `check_failed` as `open` does. */
export async function* readDeliveries(
  path: string,
  stretchBytes = stretchBytesDefault,
): AsyncGenerator<DeliveryRecord, void> {
  const file = await open(path, 'r').catch((error: unknown) => {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return undefined
    throw error
  })
  if (file === undefined) return
  try {
    let begun = ''
    for await (const stretch of stretchesOf(file, 0, stretchBytes)) {
      yield* wholeRecords(stretch.lines, path)
      begun = stretch.begun.toString()
    }
    // A record counts when only its newline is missing: the next append supplies it.
    yield* wholeRecords([begun], path)
  } finally {
    await file.close()
  }
}

interface Stretch {
  readonly lines: readonly string[]
  /** The place behind the last of them. */
  readonly end: number
  /** What stands there. */
  readonly begun: Buffer
}

/** What follows a place in a file, which may be longer than a buffer or a string can be. */
async function* stretchesOf(file: FileHandle, from: number, stretchBytes: number): AsyncGenerator<Stretch, void> {
  const read = Buffer.alloc(stretchBytes)
  let begun = Buffer.alloc(0)
  for (let at = from; ; ) {
    const { bytesRead } = await file.read(read, 0, stretchBytes, at)
    if (bytesRead === 0) return
    at += bytesRead
    const bytes = Buffer.concat([begun, read.subarray(0, bytesRead)])
    const whole = bytes.lastIndexOf(0x0a) + 1
    begun = bytes.subarray(whole)
    yield { lines: bytes.toString('utf8', 0, whole).split('\n'), end: at - begun.length, begun }
  }
}

function* wholeRecords(lines: readonly string[], path: string): Generator<DeliveryRecord, void> {
  for (const line of lines) {
    const record = line === '' ? 'torn' : decodeDelivery(line)
    if (record === 'corrupt') {
      throw new HoldfastError('check_failed', `the delivery journal ${path} has a line that was changed`, {
        hint: 'restore the file; until then nothing is delivered, since what was delivered before is not known',
      })
    }
    if (record !== 'torn') yield record
  }
}

export class DeliveryJournal implements AsyncDisposable {
  readonly #path: string
  readonly #file: FileHandle
  readonly #stretchBytes: number
  readonly #delivered = new Set<string>()
  /** By event that left and was not delivered, what was said of it. */
  readonly #said = new Map<string, Set<string>>()
  #readThrough = 0
  #endIsTorn = false
  #inTurn: Promise<unknown> = Promise.resolve()

  private constructor(path: string, file: FileHandle, stretchBytes: number) {
    this.#path = path
    this.#file = file
    this.#stretchBytes = stretchBytes
  }

  /** Opens or begins the journal of one shard. Throws `check_failed` (never) when a line of it was changed. */
  static async open(path: string, stretchBytes = stretchBytesDefault): Promise<DeliveryJournal> {
    await mkdir(dirname(path), { recursive: true, mode: 0o700 })
    const file = await open(path, 'a+', 0o600)
    await syncFolder(dirname(path))
    const journal = new DeliveryJournal(path, file, stretchBytes)
    try {
      await journal.refresh()
    } catch (error) {
      await file.close()
      throw error
    }
    return journal
  }

  /**
   * Resolves when it is on the disk: appended and flushed, unless it says nothing new of an event. When this rejects the
   * record may or may not be in the file; the next append is whole again.
   */
  record(delivery: DeliveryRecord): Promise<void> {
    return this.#next(() => this.#append(delivery))
  }

  /** Reads what others have appended since. */
  refresh(): Promise<void> {
    return this.#next(() => this.#read())
  }

  isDelivered(eventId: string): boolean {
    return this.#delivered.has(eventId)
  }

  async close(): Promise<void> {
    await this.#inTurn
    await this.#file.close()
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  #next(work: () => Promise<void>): Promise<void> {
    const done = this.#inTurn.then(work)
    this.#inTurn = done.catch(() => undefined)
    return done
  }

  async #read(): Promise<void> {
    for await (const { lines, end, begun } of stretchesOf(this.#file, this.#readThrough, this.#stretchBytes)) {
      for (const record of wholeRecords(lines, this.#path)) this.#take(record)
      this.#readThrough = end
      this.#endIsTorn = begun.length > 0
    }
  }

  async #append(delivery: DeliveryRecord): Promise<void> {
    // What another dispatcher has said may not be on the disk yet.
    if (this.#isSaid(delivery)) return this.#file.datasync()
    const line = `${this.#endIsTorn ? '\n' : ''}${encodeDelivery(delivery)}\n`
    // Until the flush has returned the end of the file is not known to be whole.
    this.#endIsTorn = true
    await this.#file.appendFile(line)
    await this.#file.datasync()
    this.#endIsTorn = false
    this.#take(delivery)
    // What others have appended before it is unread as yet.
    const { size } = await this.#file.stat()
    if (size === this.#readThrough + Buffer.byteLength(line)) this.#readThrough = size
  }

  /** A delivery is always new: evidence counts them. */
  #isSaid(record: DeliveryRecord): boolean {
    return record.state !== 'delivered' && this.#said.get(record.eventId)?.has(sayingOf(record)) === true
  }

  #take(record: DeliveryRecord): void {
    const { eventId } = record
    if (record.state === 'delivered') {
      this.#delivered.add(eventId)
      this.#said.delete(eventId)
    } else if (!this.#delivered.has(eventId)) {
      this.#said.set(eventId, (this.#said.get(eventId) ?? new Set()).add(sayingOf(record)))
    }
  }
}

/** That it left, or why it was not accepted. */
function sayingOf({ state, reason }: DeliveryRecord): string {
  return reason === null ? state : `${state}: ${reason}`
}
