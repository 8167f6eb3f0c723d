import { createHash } from 'node:crypto'
import type { FileHandle } from 'node:fs/promises'
import { mkdir, open, readFile } from 'node:fs/promises'
import { dirname } from 'node:path'
import { z } from 'zod'
import { syncFolder } from '../../base/durable-files.ts'
import { HoldfastError } from '../../base/errors.ts'

/**
 * What became of each event that left, kept where no restore reaches: a file beside the servers, not in them.
 *
 * One JSON object a line, with a checksum, appended and flushed before the caller goes on. Lines are never changed, so
 * the only damage a crash can do is a torn end. It is set apart by the newline that the next append begins with, and
 * left out when reading: what it said was never relied on. A line that is whole and does not match its checksum is
 * another matter: the file cannot be trusted, and nothing may be sent on its word.
 *
 * HAZARD: the file is the memory of what the world has seen. Losing it sends everything again that is still in the
 * outbox, with the same keys.
 */
export type DeliveryState = 'sending' | 'delivered' | 'failed'

export interface DeliveryRecord {
  readonly eventId: string
  readonly transactionId: string
  /** The `int8` in decimal. */
  readonly commitTimestamp: string
  readonly tenant: string
  readonly name: string
  readonly state: DeliveryState
  /** Wall time in milliseconds. */
  readonly at: number
  /** Why it failed. */
  readonly reason: string | null
}

/** An effect that left, whose cause is no longer in history. */
export interface Compensation {
  readonly eventId: string
  readonly transactionId: string
  readonly tenant: string
  readonly name: string
  /** `possibly`: it was sent and no acceptance came back, so only its receiver knows. */
  readonly delivered: 'certainly' | 'possibly'
}

const lineForm = z.object({
  eventId: z.string(),
  transactionId: z.string(),
  commitTimestamp: z.string(),
  tenant: z.string(),
  name: z.string(),
  state: z.enum(['sending', 'delivered', 'failed']),
  at: z.number(),
  reason: z.string().nullable(),
  sum: z.string(),
})

export function encodeDelivery(record: DeliveryRecord): string {
  const { eventId, transactionId, commitTimestamp, tenant, name, state, at, reason } = record
  const body = { eventId, transactionId, commitTimestamp, tenant, name, state, at, reason }
  return JSON.stringify({ ...body, sum: checksum(JSON.stringify(body)) })
}

/** The record of a line, `torn` for the beginning of one, `corrupt` for a whole one that is not what was written. */
export function decodeDelivery(line: string): DeliveryRecord | 'torn' | 'corrupt' {
  // Quotes inside strings are escaped, so nothing but the end of a whole line looks like this.
  if (!/"sum":"[0-9a-f]{32}"\}$/.test(line)) return 'torn'
  let value: unknown
  try {
    value = JSON.parse(line)
  } catch {
    return 'corrupt'
  }
  const parsed = lineForm.safeParse(value)
  if (!parsed.success) return 'corrupt'
  const { sum: _, ...record } = parsed.data
  return encodeDelivery(record) === line ? record : 'corrupt'
}

function checksum(text: string): string {
  return createHash('sha256').update(text).digest('hex').slice(0, 32)
}

/** Every whole record of a journal, in order; none when there is no such file. Throws `check_failed` as `open` does. */
export async function readDeliveries(path: string): Promise<DeliveryRecord[]> {
  let text: string
  try {
    text = await readFile(path, 'utf8')
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return []
    throw error
  }
  return text.split('\n').flatMap((line) => (line === '' ? [] : (wholeRecord(line, path) ?? [])))
}

/** Undefined for a torn line. */
function wholeRecord(line: string, path: string): DeliveryRecord | undefined {
  const record = decodeDelivery(line)
  if (record === 'corrupt') {
    throw new HoldfastError('check_failed', `the delivery journal ${path} has a line that was changed`, {
      hint: 'restore the file; until then nothing is delivered, since what was delivered before is not known',
    })
  }
  return record === 'torn' ? undefined : record
}

export class DeliveryJournal implements AsyncDisposable {
  readonly #path: string
  readonly #file: FileHandle
  readonly #last = new Map<string, DeliveryRecord>()
  readonly #delivered = new Map<string, DeliveryRecord>()
  #readThrough = 0
  #endIsTorn = false
  #appending: Promise<void> = Promise.resolve()

  private constructor(path: string, file: FileHandle) {
    this.#path = path
    this.#file = file
  }

  /** Opens or begins the journal of one shard. Throws `check_failed` (never) when a line of it was changed. */
  static async open(path: string): Promise<DeliveryJournal> {
    await mkdir(dirname(path), { recursive: true, mode: 0o700 })
    const file = await open(path, 'a+', 0o600)
    await syncFolder(dirname(path))
    const journal = new DeliveryJournal(path, file)
    try {
      await journal.refresh()
    } catch (error) {
      await file.close()
      throw error
    }
    return journal
  }

  /** Appends and flushes. When this rejects the record may or may not be in the file; the next append is whole again. */
  record(delivery: DeliveryRecord): Promise<void> {
    const appended = this.#appending.then(() => this.#append(delivery))
    this.#appending = appended.catch(() => undefined)
    return appended
  }

  /** Reads what others have appended since. */
  async refresh(): Promise<void> {
    const { size } = await this.#file.stat()
    const unread = Buffer.alloc(size - this.#readThrough)
    for (let filled = 0; filled < unread.length; ) {
      const { bytesRead } = await this.#file.read(unread, filled, unread.length - filled, this.#readThrough + filled)
      if (bytesRead === 0) break
      filled += bytesRead
    }
    const end = unread.lastIndexOf(0x0a) + 1
    this.#endIsTorn = end < unread.length
    for (const line of unread.subarray(0, end).toString('utf8').split('\n')) {
      const record = line === '' ? undefined : wholeRecord(line, this.#path)
      if (record !== undefined) this.#take(record)
    }
    this.#readThrough += end
  }

  isDelivered(eventId: string): boolean {
    return this.#delivered.has(eventId)
  }

  /** The last record of each event that ever left. */
  deliveries(): DeliveryRecord[] {
    return [...this.#last.keys()].flatMap((id) => this.#delivered.get(id) ?? this.#last.get(id) ?? [])
  }

  /** Effects the world has seen, or may have, whose cause is not in the history that stands. */
  compensations(inHistory: ReadonlySet<string>): Compensation[] {
    return this.deliveries()
      .filter(({ eventId }) => !inHistory.has(eventId))
      .map(({ eventId, transactionId, tenant, name, state }) => ({
        eventId,
        transactionId,
        tenant,
        name,
        delivered: state === 'delivered' ? 'certainly' : 'possibly',
      }))
  }

  async close(): Promise<void> {
    await this.#appending
    await this.#file.close()
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  async #append(delivery: DeliveryRecord): Promise<void> {
    const line = `${this.#endIsTorn ? '\n' : ''}${encodeDelivery(delivery)}\n`
    // Until the flush has returned the end of the file is not known to be whole.
    this.#endIsTorn = true
    await this.#file.appendFile(line)
    await this.#file.datasync()
    this.#endIsTorn = false
    this.#take(delivery)
  }

  #take(record: DeliveryRecord): void {
    this.#last.set(record.eventId, record)
    if (record.state === 'delivered') this.#delivered.set(record.eventId, record)
  }
}
