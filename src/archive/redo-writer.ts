import { type FileHandle, open } from 'node:fs/promises'
import { join } from 'node:path'
import { storeNew } from '../base/durable-files.ts'
import { fileFailure } from '../base/file-failure.ts'
import { present } from '../base/assert.ts'
import type { ShardName } from '../directory/topology.ts'
import type { Hlc } from '../hlc/hlc.ts'
import { hlcZero, maxHlc } from '../hlc/hlc.ts'
import type { Lsn } from '../postgres/lsn.ts'
import { maxLsn } from '../postgres/lsn.ts'
import type { ArchiveFolder } from './archive-folder.ts'
import { createFolder } from './archive-folder.ts'
import type { Attribution } from './redo-attribution.ts'
import { advance, nothingAttributed } from './redo-attribution.ts'
import { listRedoFiles, nextGeneration, positionAt, redoFileName } from './redo-path.ts'
import { RedoEncoder, redoMagic } from './redo-segment.ts'
import type { RedoTransaction, RelationName, RelationShape } from './redo-transaction.ts'
import type { TimelineHistory } from './timeline.ts'

/**
 * Appends to the redo stream. Opened by whoever holds the slot, and only then: it begins a segment of its own where the
 * whole records before it end. So it needs to repair nothing, and a writer that was replaced without knowing can put
 * nothing into the stream any more.
 */
export interface RedoWriterOptions {
  readonly folder: ArchiveFolder
  readonly systemId: string
  readonly history: TimelineHistory
  readonly segmentBytesMax: number
}

/** Where a stream begins that has nothing before it. */
export interface RedoBeginning {
  /** What the server sends ends behind it: it was told that everything before is kept. */
  readonly confirmed: Lsn
  /** A commit timestamp that the transactions behind it stamp above. */
  readonly highestStamp: Hlc
  /** A reading of the shard's clock from behind it: nothing before it has a timestamp above. */
  readonly clock: Hlc
}

interface WriterState {
  through: Lsn
  from: Lsn
  clockAtFrom: Hlc
  previous: Uint8Array | null
  closedTimestamp: Hlc
  attribution: Attribution
  shapes: Map<RelationName, RelationShape>
}

export class RedoWriter {
  readonly #options: RedoWriterOptions
  readonly #state: WriterState
  /** What the server says was confirmed but the archive has not: from where to where. */
  readonly hole: { readonly from: Lsn; readonly to: Lsn } | null
  readonly #generation: number
  #encoder: RedoEncoder
  #start: Lsn
  #file: FileHandle | undefined
  #fileBytes = 0
  /** What a new segment begins with, until it has a record to begin with. */
  #preamble: Buffer[]
  #pending: Buffer[] = []

  private constructor(options: RedoWriterOptions, state: WriterState, generation: number, hole: RedoWriter['hole']) {
    this.#options = options
    this.#state = state
    this.#generation = generation
    this.hole = hole
    this.#encoder = new RedoEncoder()
    this.#start = state.through
    this.#preamble = this.#encodePreamble()
  }

  static async open(options: RedoWriterOptions, beginning: RedoBeginning): Promise<RedoWriter> {
    const { folder, history } = options
    const { confirmed } = beginning
    const last = (await listRedoFiles(folder, history)).at(-1)
    const generation = await nextGeneration(folder, history.timeline)
    const fresh = { through: confirmed, from: confirmed, clockAtFrom: beginning.clock, previous: null }
    if (last === undefined) {
      const attribution = { ...nothingAttributed, highestStamp: beginning.highestStamp }
      const state = { ...fresh, closedTimestamp: hlcZero, attribution, shapes: new Map() }
      return new RedoWriter(options, state, generation, null)
    }
    const { through, closedTimestamp, attribution, shapes, digest, header } = await positionAt(last)
    const isHole = confirmed > through
    const previous = through === header.start ? header.previous : digest
    // A later reading of the clock bounds the same.
    const clockAtFrom = header.clockAtFrom ?? beginning.clock
    const place = isHole ? fresh : { through, from: header.from, clockAtFrom, previous }
    const state = { ...place, closedTimestamp, attribution, shapes: new Map(shapes) }
    return new RedoWriter(options, state, generation, isHole ? { from: through, to: confirmed } : null)
  }

  /** Everything that ended at or before it was appended; flushed, once `flush` has resolved. */
  get through(): Lsn {
    return this.#state.through
  }

  get shard(): ShardName {
    return this.#options.folder.shard
  }

  get attribution(): Attribution {
    return this.#state.attribution
  }

  /** Adds a transaction, with the shape of each of its changes, unless the stream has it (A4, A7). */
  append(transaction: RedoTransaction, shapes: readonly RelationShape[]): void {
    const state = this.#state
    if (transaction.endLsn <= state.through) return
    for (const [index, shape] of shapes.entries()) {
      const { relation } = present(transaction.changes[index], 'a shape is of a change')
      const known = state.shapes.get(relation)
      if (known === shape) continue
      state.shapes.set(relation, shape)
      if (known !== undefined && JSON.stringify(known) === JSON.stringify(shape)) this.#encoder.rename(known, shape)
      else this.#pending.push(this.#encoder.encode({ kind: 'shape', shape }))
    }
    this.#pending.push(this.#encoder.encode({ kind: 'transaction', transaction, shapes }))
    state.through = transaction.endLsn
    state.attribution = advance(state.attribution, transaction.changes, transaction.identity)
  }

  /** Says that everything that ended at or before `lsn` was appended, and is all at or below the closed timestamp. */
  appendThrough(lsn: Lsn, closedTimestamp: Hlc): void {
    const state = this.#state
    const at = maxLsn(lsn, state.through)
    if (at === state.through && closedTimestamp <= state.closedTimestamp) return
    this.#pending.push(this.#encoder.encode({ kind: 'through', lsn: at, closedTimestamp }))
    state.through = at
    state.closedTimestamp = maxHlc(state.closedTimestamp, closedTimestamp)
  }

  /** Makes what was appended survive a crash; false when there was nothing. After it has failed, the writer is of no use. */
  async flush(): Promise<boolean> {
    if (this.#pending.length === 0) return false
    const bytes = Buffer.concat(this.#pending)
    this.#pending = []
    try {
      if (this.#file === undefined) await this.#beginSegment(bytes)
      else await this.#extendSegment(this.#file, bytes)
    } catch (error) {
      throw fileFailure(error, this.#options.folder.path)
    }
    if (this.#fileBytes < this.#options.segmentBytesMax) return true
    await this.close()
    this.#state.previous = this.#encoder.digest
    this.#encoder = new RedoEncoder()
    this.#start = this.#state.through
    this.#preamble = this.#encodePreamble()
    return true
  }

  async close(): Promise<void> {
    const file = this.#file
    this.#file = undefined
    await file?.close()
  }

  async #extendSegment(file: FileHandle, bytes: Buffer): Promise<void> {
    for (let done = 0; done < bytes.length; ) {
      done += (await file.write(bytes, done, bytes.length - done, this.#fileBytes + done)).bytesWritten
    }
    await file.datasync()
    this.#fileBytes += bytes.length
  }

  /** A segment appears with its first records. Fails when there is one of that name: it is another writer's. */
  async #beginSegment(bytes: Buffer): Promise<void> {
    const folder = this.#options.folder.redoFolderOf(this.#options.history.timeline)
    const path = join(folder, redoFileName(this.#generation, this.#start))
    const content = Buffer.concat([...this.#preamble, bytes])
    await createFolder(folder)
    await storeNew(path, content)
    this.#file = await open(path, 'r+')
    this.#fileBytes = content.length
  }

  /** The header, and every shape known so far: a segment can be read without those before it. */
  #encodePreamble(): Buffer[] {
    const { folder, systemId, history } = this.#options
    const { through, from, clockAtFrom, previous, closedTimestamp, attribution, shapes } = this.#state
    const header = this.#encoder.encode({
      kind: 'header',
      shard: folder.shard,
      systemId,
      timeline: history.timeline,
      start: through,
      from,
      clockAtFrom,
      previous,
      closedTimestamp,
      highestStamp: attribution.highestStamp,
      decided: [...attribution.decided],
      shapes: [...shapes.values()],
    })
    return [redoMagic, header]
  }
}
