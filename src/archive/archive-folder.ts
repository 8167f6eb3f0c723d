import { createHash } from 'node:crypto'
import { mkdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { storeNew, syncFolder } from '../base/durable-files.ts'
import { HoldfastError } from '../base/errors.ts'
import type { ShardName } from '../directory/topology.ts'
import { historyFileName, isSegmentSize, timelineFolder } from './wal-segment.ts'

/**
 * Where the archive of one shard keeps its files. Nothing else knows their names.
 *
 *   archive.json                         whose archive this is
 *   base/<id>/{base.tar,backup_manifest,entry.json}
 *   wal/<timeline>.history               as the server wrote it
 *   wal/<timeline>/<segment>             a whole segment, with <segment>.sha256 beside it
 *   wal/<timeline>/<segment>.partial     the segment that is being received
 *   redo/<timeline>/<position>.redo      transactions that ended behind that position
 */
export class ArchiveFolder {
  readonly shard: ShardName
  readonly path: string
  readonly #memoryDir: string | undefined

  /** In `memoryDir`, on another disk, it is remembered that there is an archive here. */
  constructor(root: string, shard: ShardName, memoryDir?: string) {
    this.shard = shard
    this.path = join(root, shard.replaceAll('/', '~'))
    this.#memoryDir = memoryDir
  }

  get baseFolder(): string {
    return join(this.path, 'base')
  }

  get walFolder(): string {
    return join(this.path, 'wal')
  }

  walFolderOf(timeline: number): string {
    return join(this.walFolder, timelineFolder(timeline))
  }

  historyFile(timeline: number): string {
    return join(this.walFolder, historyFileName(timeline))
  }

  redoFolderOf(timeline: number): string {
    return join(this.path, 'redo', timelineFolder(timeline))
  }

  /** Whose archive this is; undefined while nothing was archived. */
  async identity(): Promise<ArchiveIdentity | undefined> {
    const text = await readOptional(join(this.path, 'archive.json'))
    return text === undefined ? undefined : parseIdentity(text.toString(), this.path)
  }

  /** Throws `restore_unreachable` when nothing was archived yet. */
  async requireIdentity(): Promise<ArchiveIdentity> {
    const identity = await this.identity()
    if (identity !== undefined) return identity
    throw new HoldfastError('restore_unreachable', `nothing of ${this.shard} is archived in ${this.path}`)
  }

  /**
   * Makes this the archive of a cluster, or checks that it is: the log of two clusters in one folder would be the
   * log of none. Throws `config_invalid`; `check_failed` where it was before and is not any more (A8).
   */
  async claim(identity: ArchiveIdentity): Promise<void> {
    const known = await this.identity()
    if (known === undefined) {
      await this.#requireNeverClaimed(identity)
      await createFolder(this.path)
      const text = Buffer.from(`${JSON.stringify({ format: 1, ...identity })}\n`)
      try {
        await storeNew(join(this.path, 'archive.json'), text)
      } catch (error) {
        // Another one, the receiver beside the redo stream or another gateway, claimed it meanwhile.
        if (!isTaken(error)) throw error
      }
      return this.claim(identity)
    }
    if (known.systemId === identity.systemId && known.segmentBytes === identity.segmentBytes) {
      return this.#remember(identity)
    }
    throw new HoldfastError(
      'config_invalid',
      `${this.path} is the archive of another cluster of the name ${this.shard}`,
      {
        hint: 'Configure another archive, or move this one away.',
        detail: { archived: known.systemId, found: identity.systemId },
      },
    )
  }

  /** One file for each cluster and place: a folder that was configured anew has not been one. */
  #memoryOf({ systemId }: ArchiveIdentity): string | undefined {
    if (this.#memoryDir === undefined) return undefined
    const mark = createHash('sha256').update(`${systemId} ${this.path}`).digest('hex').slice(0, 8)
    return join(this.#memoryDir, `archive-${this.shard.replaceAll('/', '~')}-${mark}.json`)
  }

  async #remember(identity: ArchiveIdentity): Promise<void> {
    const memory = this.#memoryOf(identity)
    if (memory === undefined || (await readOptional(memory)) !== undefined) return
    try {
      await storeNew(memory, Buffer.from(`${JSON.stringify({ path: this.path, systemId: identity.systemId })}\n`))
    } catch (error) {
      if (!isTaken(error)) throw error
    }
  }

  async #requireNeverClaimed(identity: ArchiveIdentity): Promise<void> {
    const memory = this.#memoryOf(identity)
    if (memory === undefined || (await readOptional(memory)) === undefined) return
    throw new HoldfastError('check_failed', `the archive of ${this.shard} is not in ${this.path} any more`, {
      hint: `is its disk mounted? Where it is lost for good, remove ${memory} and take a base backup`,
      detail: { shard: this.shard, path: this.path },
    })
  }
}

function isTaken(error: unknown): boolean {
  return error instanceof Error && 'code' in error && error.code === 'EEXIST'
}

export interface ArchiveIdentity {
  /** PostgreSQL's system identifier: the same on all nodes of a shard and of what is restored from it. */
  readonly systemId: string
  readonly segmentBytes: number
}

/** Creates a folder and its ancestors so that they survive a crash. Readable by this user alone. */
export async function createFolder(path: string): Promise<void> {
  const first = await mkdir(path, { recursive: true, mode: 0o700 })
  if (first === undefined) return
  for (let folder = path; folder !== join(first, '..'); folder = join(folder, '..')) await syncFolder(folder)
  await syncFolder(join(first, '..'))
}

/** The content of a file; undefined when there is none. */
export async function readOptional(path: string): Promise<Buffer | undefined> {
  try {
    return await readFile(path)
  } catch (error) {
    if (isAbsent(error)) return undefined
    throw error
  }
}

export function isAbsent(error: unknown): boolean {
  return error instanceof Error && 'code' in error && error.code === 'ENOENT'
}

function parseIdentity(text: string, path: string): ArchiveIdentity {
  const value: unknown = JSON.parse(text)
  if (typeof value === 'object' && value !== null && 'format' in value && value.format === 1) {
    const { systemId, segmentBytes } = value as Partial<ArchiveIdentity>
    if (typeof systemId === 'string' && typeof segmentBytes === 'number' && isSegmentSize(segmentBytes)) {
      return { systemId, segmentBytes }
    }
  }
  throw new HoldfastError('check_failed', `archive.json in ${path} is of another version or damaged`)
}
