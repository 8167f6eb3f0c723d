import pg from 'pg'
import { assert, present } from '../base/assert.ts'
import type { Clock } from '../base/clock.ts'
import { ConnectionLost, ServerError } from './failure.ts'
import type { Lsn } from './lsn.ts'
import { lsnZero, parseLsn, toLsn } from './lsn.ts'

/**
 * What flows over a connection once replication has started, in both directions.
 *
 *   R1  A message is a copy. The driver's parser uses its buffer again for the next one.
 *   R2  While the reader is behind by more than `queuedBytesMax`, the socket is not read: the server waits.
 *   R3  The server is answered for as long as this process lives, also while the reader is busy; a server that is
 *       silent is asked, and given up after `silenceMsMax`.
 *   R4  The positions that the server is told are the reader's own, and never go down.
 */
export interface ReplicationMessage {
  /** Content, or null when the server only tells how far it is. */
  readonly bytes: Buffer | null
  /** Where the content begins in the log. */
  readonly start: Lsn
  /** How far the server is: of a physical stream the end of its log, of a logical one what it has decoded and sent. */
  readonly serverEnd: Lsn
}

export interface ReplicationBatch {
  readonly messages: readonly ReplicationMessage[]
  /** The timeline ended: the server goes on with the next one, which began at `start`. The connection takes commands again. */
  readonly ended: { readonly nextTimeline: number; readonly start: Lsn } | null
}

export interface ReplicationStatus {
  readonly written: Lsn
  /** The server may forget the log up to here, and a synchronous commit below it is acknowledged. */
  readonly flushed: Lsn
  readonly applied: Lsn
}

const queuedBytesMax = 32 << 20
const answerEveryMs = 2_000
const silenceMsMax = 30_000

/** PostgreSQL counts microseconds from 2000-01-01. */
export const postgresEpochMs = 946_684_800_000

export class ReplicationStream implements pg.Submittable {
  /** Resolves when the server has begun to stream, or has said that there is nothing to; rejects with its refusal. */
  readonly started: Promise<void>
  readonly #command: string
  readonly #connection: pg.Connection
  readonly #clock: Clock
  readonly #answering: NodeJS.Timeout
  readonly #settleStart: { resolve: () => void; reject: (error: unknown) => void }
  #queue: ReplicationMessage[] = []
  #queuedBytes = 0
  #status: ReplicationStatus = { written: lsnZero, flushed: lsnZero, applied: lsnZero }
  #streaming = false
  #heardAtMs: number
  #wake: () => void = () => undefined
  #failure: unknown
  #nextRow: (string | null)[] = []
  #ended = false

  constructor(command: string, connection: pg.Connection, clock: Clock) {
    this.#command = command
    this.#connection = connection
    this.#clock = clock
    this.#heardAtMs = clock.monotonicMs()
    let resolve: () => void = () => undefined
    let reject: (error: unknown) => void = () => undefined
    this.started = new Promise<void>((res, rej) => {
      resolve = res
      reject = rej
    })
    this.#settleStart = { resolve, reject }
    this.#answering = setInterval(() => this.#answer(), answerEveryMs)
  }

  /** What has arrived, once something has; empty after `withinMs`. Rejects when the stream is broken. */
  async receive(withinMs: number): Promise<ReplicationBatch> {
    if (this.#queue.length === 0 && this.#failure === undefined && !this.#ended) await this.#arrival(withinMs)
    const messages = this.#queue
    if (messages.length === 0) {
      if (this.#failure !== undefined) throw this.#failure
      return { messages, ended: this.#ended ? this.#nextTimeline() : null }
    }
    this.#queue = []
    this.#queuedBytes = 0
    this.#connection.stream.resume()
    return { messages, ended: null }
  }

  /** Tells the server what is written, flushed and applied here. */
  report(status: ReplicationStatus): void {
    const before = this.#status
    assert(status.flushed >= before.flushed && status.written >= before.written, 'reported positions never go down')
    this.#status = status
    this.#send(false)
  }

  /** Asks the server how far it is; an idle one says so by itself only every few seconds. */
  ask(): void {
    this.#send(true)
  }

  // What follows is called by the driver, which runs this as it runs a query.

  submit(connection: pg.Connection): void {
    connection.once('replicationStart', this.#onStart)
    connection.on('copyDone', this.#onCopyDone)
    connection.query(this.#command)
  }

  handleCopyData(message: { chunk: Buffer }): void {
    this.#heardAtMs = this.#clock.monotonicMs()
    const parsed = parseMessage(message.chunk)
    if (parsed === undefined) return
    if (parsed.replyNow) this.#send(false)
    this.#queue.push(parsed.message)
    this.#queuedBytes += message.chunk.length
    if (this.#queuedBytes > queuedBytesMax) this.#connection.stream.pause()
    this.#wake()
  }

  handleRowDescription(): void {}

  handleDataRow(message: { fields: (string | null)[] }): void {
    this.#nextRow = message.fields
  }

  handleCommandComplete(): void {}

  handleReadyForQuery(): void {
    this.#ended = true
    // Who asks for a timeline from its very end on gets no stream, and is told of the next one at once.
    this.#settleStart.resolve()
    this.#finish()
  }

  handleError(error: unknown): void {
    this.#failure =
      error instanceof pg.DatabaseError
        ? new ServerError(error)
        : new ConnectionLost('the replication stream broke off', true, error)
    this.#settleStart.reject(error)
    this.#finish()
  }

  readonly #onStart = () => {
    this.#streaming = true
    this.#settleStart.resolve()
  }

  /** The server has nothing more on this timeline; it waits for our consent and then names the next one. */
  readonly #onCopyDone = () => {
    this.#streaming = false
    this.#connection.stream.write(copyDone)
  }

  #finish(): void {
    clearInterval(this.#answering)
    this.#streaming = false
    this.#connection.off('replicationStart', this.#onStart)
    this.#connection.off('copyDone', this.#onCopyDone)
    this.#wake()
  }

  #arrival(withinMs: number): Promise<void> {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, withinMs)
      this.#wake = () => {
        clearTimeout(timer)
        resolve()
      }
    })
  }

  #answer(): void {
    // A socket that we do not read says nothing about the server.
    if (this.#connection.stream.isPaused()) this.#heardAtMs = this.#clock.monotonicMs()
    const silentMs = this.#clock.monotonicMs() - this.#heardAtMs
    if (silentMs > silenceMsMax) this.#connection.stream.destroy(new Error(`the server is silent for ${silentMs} ms`))
    else this.#send(silentMs > 2 * answerEveryMs)
  }

  #send(replyRequested: boolean): void {
    if (!this.#streaming || !this.#connection.stream.writable) return
    this.#connection.stream.write(encodeStatus(this.#status, this.#clock.wallMs(), replyRequested))
  }

  #nextTimeline(): NonNullable<ReplicationBatch['ended']> {
    const [timeline, start] = this.#nextRow
    if (timeline == null || start == null) throw new ConnectionLost('the server ended the stream', true)
    return { nextTimeline: Number(timeline), start: parseLsn(start) }
  }
}

/** `w` is content, `k` a sign of life (PostgreSQL, "Streaming Replication Protocol"). Others are not for us. */
function parseMessage(chunk: Buffer): { message: ReplicationMessage; replyNow: boolean } | undefined {
  switch (String.fromCharCode(present(chunk[0], 'a message has a kind'))) {
    case 'w': {
      const message = {
        start: toLsn(chunk.readBigUInt64BE(1)),
        serverEnd: toLsn(chunk.readBigUInt64BE(9)),
        bytes: Buffer.from(chunk.subarray(25)),
      }
      return { message, replyNow: false }
    }
    case 'k': {
      const serverEnd = toLsn(chunk.readBigUInt64BE(1))
      return { message: { bytes: null, start: serverEnd, serverEnd }, replyNow: chunk[17] === 1 }
    }
    default:
      return undefined
  }
}

const copyDone = Buffer.from([0x63, 0, 0, 0, 4])

/** A standby status update in a CopyData message. */
function encodeStatus(status: ReplicationStatus, nowMs: number, replyRequested: boolean): Buffer {
  const bytes = Buffer.alloc(39)
  bytes.write('d', 0, 'latin1')
  bytes.writeUInt32BE(38, 1)
  bytes.write('r', 5, 'latin1')
  bytes.writeBigUInt64BE(status.written, 6)
  bytes.writeBigUInt64BE(status.flushed, 14)
  bytes.writeBigUInt64BE(status.applied, 22)
  bytes.writeBigInt64BE(BigInt(Math.trunc(nowMs) - postgresEpochMs) * 1000n, 30)
  bytes.writeUInt8(replyRequested ? 1 : 0, 38)
  return bytes
}
