import type { Clock } from '../base/clock.ts'
import type { Hlc } from '../hlc/hlc.ts'
import { hlcZero } from '../hlc/hlc.ts'
import type { Connection } from '../postgres/connection.ts'
import type { Lsn } from '../postgres/lsn.ts'
import { lsnZero, maxLsn, minLsn } from '../postgres/lsn.ts'
import type { ReplicationMessage, ReplicationStream } from '../postgres/replication-stream.ts'
import { parsePgoutput } from './pgoutput.ts'
import type { DecodedTransaction } from './redo-assembly.ts'
import { RedoAssembly } from './redo-assembly.ts'
import type { Attribution } from './redo-attribution.ts'
import { advance, attribute } from './redo-attribution.ts'
import { describeRelation, logRunningTransactions, readDecision, readMarks } from './redo-store.ts'
import type { RedoIdentity, RedoTransaction, RelationShape } from './redo-transaction.ts'
import type { RedoWriter } from './redo-writer.ts'
import { beforePageHeader } from './wal-records.ts'

/** How often the followers are looked at for a transaction that waits for them, and how long what arrives is gathered. */
const roundMs = 10
/** How often it is stored how far the stream is. */
const markEveryMs = 200
/** The same while no timestamp is closed: a slot that stands still keeps log, and followers cannot take it over. */
const markIdleEveryMs = 1_000
/** More than this is not taken from the server while the followers are behind. */
const heldBytesMax = 64 << 20
const marksMax = 16
/**
 * A follower takes over a slot only once the slot needs nothing older than the follower has, and the slot moves on when
 * the server logs which transactions run: by itself every 15 seconds. Asked for, a new slot is carried in one.
 */
const settleEveryMs = { atFirst: 500, later: 5_000 }
const settlesForMs = 20_000

export interface RedoSessionOptions {
  readonly clock: Clock
  readonly stream: ReplicationStream
  /** An ordinary connection to the same server. */
  readonly beside: Connection
  readonly writer: RedoWriter
  readonly segmentBytes: number
  /** Whether followers of this server version can take over the slot. */
  readonly isSlotCarried: boolean
}

interface Held {
  readonly transaction: RedoTransaction
  readonly shapes: readonly RelationShape[]
  readonly bytes: number
}

/** All at or below the closed timestamp ends at or before the position, which lies between two records. */
interface Mark {
  readonly lsn: Lsn
  readonly closedTimestamp: Hlc
}

/** One connection's worth of the redo stream: from the server's messages to the writer. */
export class RedoSession {
  readonly #options: RedoSessionOptions
  readonly #assembly = new RedoAssembly()
  #attribution: Attribution
  /** How far the server has decoded and sent. */
  #received: Lsn
  /** What a promotion cannot lose. */
  #replicated: Lsn = lsnZero
  #held: Held[] = []
  #heldBytes = 0
  #openBytes = 0
  #marks: Mark[] = []
  #lastMark: Mark = { lsn: lsnZero, closedTimestamp: hlcZero }
  #lookedAtMs = Number.NEGATIVE_INFINITY
  #markedAtMs = Number.NEGATIVE_INFINITY
  readonly #beganAtMs: number
  #settledAtMs = Number.NEGATIVE_INFINITY

  constructor(options: RedoSessionOptions) {
    this.#options = options
    this.#attribution = options.writer.attribution
    this.#received = options.writer.through
    this.#beganAtMs = options.clock.monotonicMs()
  }

  async run(signal: AbortSignal): Promise<void> {
    const { clock, stream } = this.#options
    while (!signal.aborted) {
      if (this.#heldBytes <= heldBytesMax) {
        const { messages } = await stream.receive(this.#held.length > 0 ? 0 : markEveryMs)
        for (const message of messages) await this.#take(message)
      }
      await this.#look()
      await this.#store()
      await this.#settleSlot()
      await clock.sleep(roundMs, signal)
    }
  }

  async #take({ bytes, serverEnd }: ReplicationMessage): Promise<void> {
    if (bytes === null) {
      // Everything that ends at or before it was sent before this.
      this.#received = maxLsn(this.#received, serverEnd)
      return
    }
    this.#openBytes += bytes.length
    const message = parsePgoutput(bytes)
    if (message.kind === 'relation') {
      this.#assembly.learn(message, await describeRelation(this.#options.beside, message))
      return
    }
    const decoded = this.#assembly.take(message)
    if (decoded === undefined) return
    await this.#hold(decoded, this.#openBytes)
    this.#openBytes = 0
    this.#received = maxLsn(this.#received, decoded.endLsn)
  }

  async #hold(decoded: DecodedTransaction, bytes: number): Promise<void> {
    const { writer } = this.#options
    const { commitLsn, endLsn, xid, committedAtMs, changes, shapes } = decoded
    // The server sends again what it was not told of; a transaction without rows says nothing.
    if (endLsn <= writer.through || changes.length === 0) return
    const identity = await this.#identify(decoded)
    this.#attribution = advance(this.#attribution, changes, identity)
    const transaction = { shard: writer.shard, commitLsn, endLsn, xid, committedAtMs, identity, changes }
    this.#held.push({ transaction, shapes, bytes })
    this.#heldBytes += bytes
  }

  async #identify({ changes }: DecodedTransaction): Promise<RedoIdentity> {
    const attributed = attribute(changes, this.#attribution)
    if (attributed.kind !== 'decision_unknown') return attributed
    // A stream that begins between a decision and its settlement: the participant still has the decision.
    const { transactionId } = attributed
    const stamp = await readDecision(this.#options.beside, transactionId)
    const { highestStamp, decided } = this.#attribution
    if (stamp !== undefined) {
      const again = attribute(changes, { highestStamp, decided: new Map(decided).set(transactionId, stamp) })
      if (again.kind !== 'decision_unknown') return again
    }
    // Settled by hand, without a decision.
    return { kind: 'unattributed', after: highestStamp }
  }

  /** Looks how far the followers are, when something waits for them, and what is closed, now and then. */
  async #look(): Promise<void> {
    const { beside, clock, segmentBytes, stream } = this.#options
    const nowMs = clock.monotonicMs()
    const isDue = nowMs - this.#lookedAtMs >= markEveryMs
    const isAwaited = this.#held.some(({ transaction }) => transaction.endLsn > this.#replicated)
    if (!isDue && !isAwaited) return
    const { closedTimestamp, writtenLsn, replicatedLsn } = await readMarks(beside)
    // Where nobody is waited for now, somebody may be for what is written later.
    this.#replicated = maxLsn(this.#replicated, minLsn(replicatedLsn, writtenLsn))
    if (!isDue) return
    this.#lookedAtMs = nowMs
    // Commits that carry nothing for the stream leave it behind the log until the server is asked.
    if (this.#received < writtenLsn) stream.ask()
    const mark = { lsn: beforePageHeader(writtenLsn, segmentBytes), closedTimestamp }
    const last = this.#lastMark
    const isIdle = closedTimestamp <= last.closedTimestamp
    if (isIdle && (mark.lsn <= last.lsn || nowMs - this.#markedAtMs < markIdleEveryMs)) return
    this.#lastMark = mark
    this.#markedAtMs = nowMs
    this.#marks = [...this.#marks.slice(0, marksMax - 1), mark]
  }

  async #store(): Promise<void> {
    const { writer, stream } = this.#options
    const safe = minLsn(this.#received, this.#replicated)
    const later = this.#held.findIndex(({ transaction }) => transaction.endLsn > safe)
    for (const { transaction, shapes, bytes } of this.#held.splice(0, later < 0 ? this.#held.length : later)) {
      this.#heldBytes -= bytes
      writer.append(transaction, shapes)
    }
    const reached = this.#marks.findLast(({ lsn }) => lsn <= safe)
    if (reached !== undefined) {
      this.#marks = this.#marks.filter(({ lsn }) => lsn > reached.lsn)
      // Not `safe`: a follower may have flushed half of a record, and a replay can stop between two alone.
      writer.appendThrough(reached.lsn, reached.closedTimestamp)
    }
    if (await writer.flush()) {
      stream.report({ written: writer.through, flushed: writer.through, applied: writer.through })
    }
  }

  async #settleSlot(): Promise<void> {
    const { beside, clock, isSlotCarried } = this.#options
    const nowMs = clock.monotonicMs()
    const everyMs = nowMs - this.#beganAtMs < settlesForMs ? settleEveryMs.atFirst : settleEveryMs.later
    if (!isSlotCarried || nowMs - this.#settledAtMs < everyMs) return
    this.#settledAtMs = nowMs
    await logRunningTransactions(beside)
  }
}
