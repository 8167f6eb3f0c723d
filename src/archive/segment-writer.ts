import { createHash, type Hash } from 'node:crypto'
import { constants } from 'node:fs'
import { type FileHandle, open, rename, rm } from 'node:fs/promises'
import { dirname } from 'node:path'
import { assert } from '../base/assert.ts'
import { storeDurably, syncFolder } from '../base/durable-files.ts'
import { HoldfastError } from '../base/errors.ts'
import { fileFailure } from '../base/file-failure.ts'
import type { Lsn } from '../postgres/lsn.ts'
import { toLsn } from '../postgres/lsn.ts'
import type { ArchiveFolder } from './archive-folder.ts'
import { createFolder, readOptional } from './archive-folder.ts'
import { checksumFile, checksumSuffix, partialSuffix, segmentPath } from './wal-inventory.ts'
import type { WalSegment } from './wal-segment.ts'
import { segmentName, segmentStart } from './wal-segment.ts'

/**
 * Writes the log of one timeline into segments, from the start of one on. The segment that is being written is
 * `<segment>.partial`; when it is full it is flushed, gets its checksum and then its name (A1).
 */
export class SegmentWriter {
  readonly #folder: ArchiveFolder
  readonly #segmentBytes: number
  readonly #timeline: number
  #position: Lsn
  #file: FileHandle | undefined
  #hash: Hash
  #dirty = false

  constructor(folder: ArchiveFolder, segmentBytes: number, first: WalSegment) {
    this.#folder = folder
    this.#segmentBytes = segmentBytes
    this.#timeline = first.timeline
    this.#position = segmentStart(first.number, segmentBytes)
    this.#hash = createHash('sha256')
  }

  /** Everything before it is written, though not all of it flushed. */
  get position(): Lsn {
    return this.#position
  }

  /** Throws `disk_full` or `directory_not_writable`; what was reported as flushed stays. */
  async write(start: Lsn, bytes: Buffer): Promise<void> {
    assert(start === this.#position, `the log comes without a gap: ${start} after ${this.#position}`)
    try {
      await this.#write(bytes)
    } catch (error) {
      throw fileFailure(error, this.#folder.path)
    }
  }

  /** Makes everything that was written survive a crash. Resolves with the position up to which it does. */
  async flush(): Promise<Lsn> {
    try {
      if (this.#dirty) await this.#file?.datasync()
    } catch (error) {
      throw fileFailure(error, this.#folder.path)
    }
    this.#dirty = false
    return this.#position
  }

  async close(): Promise<void> {
    const file = this.#file
    this.#file = undefined
    await file?.close()
  }

  async #write(bytes: Buffer): Promise<void> {
    for (let done = 0; done < bytes.length; ) {
      this.#file ??= await this.#openPartial()
      const offset = Number(this.#position % BigInt(this.#segmentBytes))
      const part = bytes.subarray(done, done + this.#segmentBytes - offset)
      await writeAt(this.#file, part, offset)
      this.#hash.update(part)
      this.#dirty = true
      done += part.length
      this.#position = toLsn(this.#position + BigInt(part.length))
      if (offset + part.length === this.#segmentBytes) await this.#seal()
    }
  }

  /** Bytes that are in it stay until the same bytes are written over them: they may be all that is left of a shard. */
  async #openPartial(): Promise<FileHandle> {
    const path = `${this.#path(0n)}${partialSuffix}`
    await createFolder(dirname(path))
    const file = await open(path, constants.O_RDWR | constants.O_CREAT, 0o600)
    await syncFolder(dirname(path))
    return file
  }

  /** The segment is full: flush it, store its checksum, then give it its name. */
  async #seal(): Promise<void> {
    assert(this.#file !== undefined, 'a full segment was opened')
    await this.#file.sync()
    await this.close()
    this.#dirty = false
    const path = this.#path(-1n)
    const sha256 = this.#hash.digest('hex')
    this.#hash = createHash('sha256')
    if (await isArchived(path, sha256)) return rm(`${path}${partialSuffix}`)
    const segment = { timeline: this.#timeline, number: this.#number() - 1n }
    await storeDurably(`${path}${checksumSuffix}`, checksumFile(sha256, segmentName(segment, this.#segmentBytes)))
    await rename(`${path}${partialSuffix}`, path)
    await syncFolder(dirname(path))
  }

  #number(): bigint {
    return this.#position / BigInt(this.#segmentBytes)
  }

  #path(offset: bigint): string {
    const segment = { timeline: this.#timeline, number: this.#number() + offset }
    return segmentPath(this.#folder, segment, this.#segmentBytes)
  }
}

/** A2: one name, one content. */
async function isArchived(path: string, sha256: string): Promise<boolean> {
  const archived = await readOptional(path)
  if (archived === undefined) return false
  if (createHash('sha256').update(archived).digest('hex') !== sha256) {
    throw new HoldfastError('archive_gap', `${path} is archived with other bytes than the server has`, {
      hint: 'Two servers were promoted to the same timeline. Find out which history is the right one before archiving goes on.',
    })
  }
  return true
}

/** `write` may take less than it was given. */
async function writeAt(file: FileHandle, bytes: Buffer, offset: number): Promise<void> {
  for (let done = 0; done < bytes.length; ) {
    done += (await file.write(bytes, done, bytes.length - done, offset + done)).bytesWritten
  }
}
