import { createReadStream } from 'node:fs'
import { chmod, mkdir, open, readdir, readFile, writeFile } from 'node:fs/promises'
import { join, normalize } from 'node:path'
import type { Readable } from 'node:stream'
import { extract } from 'tar-stream'
import { assert } from '../../base/assert.ts'
import { storeDurably, syncFolder } from '../../base/durable-files.ts'
import { HoldfastError } from '../../base/errors.ts'
import { fileFailure } from '../../base/file-failure.ts'
import { manifestName, parseManifest, verifyManifest } from './backup-manifest.ts'
import type { BaseBackupSink } from './base-backup.ts'
import { giveTo, makeDataDir } from './data-directory.ts'
import type { ServerUser } from './server-user.ts'

/** Where a base backup goes: unpacked into a data directory, or as it came into an archive. */

export const tarName = 'base.tar'

/** Files up to this size are collected and written at once: most of a data directory is small. */
const smallFileBytes = 1 << 20
/** What the file system works on at a time; with small files, at most so many megabytes are held. */
const writesMax = 16

/** Unpacks into an empty data directory. `verifyManifest` afterwards says whether all of it arrived. */
export function intoDirectory(dataDir: string, user: ServerUser | undefined, signal?: AbortSignal): BaseBackupSink {
  return {
    archive: (content) => extractArchive(content, dataDir, user, signal),
    manifest: async (bytes) => {
      const path = join(dataDir, manifestName)
      await writeFile(path, bytes, { mode: 0o600 })
      await giveTo(user, path)
    },
  }
}

/**
 * Stores `base.tar` and `backup_manifest` in a folder. The manifest comes last and durably, so a folder that has
 * one is a whole backup.
 */
export function intoArchive(folder: string): BaseBackupSink {
  return {
    archive: async (content) => {
      await mkdir(folder, { recursive: true })
      await storeDurably(join(folder, tarName), content)
    },
    manifest: async (bytes) => {
      parseManifest(bytes)
      await storeDurably(join(folder, manifestName), bytes)
      await syncFolder(join(folder, '..'))
    },
  }
}

/**
 * Unpacks a stored backup into a new data directory and verifies it. Throws `check_failed`, `disk_full`, and the reason of the signal,
 * after which nothing more is written.
 */
export async function unpackStored(
  folder: string,
  dataDir: string,
  user: ServerUser | undefined,
  signal?: AbortSignal,
): Promise<void> {
  const sink = intoDirectory(dataDir, user, signal)
  await sink.archive(createReadStream(join(folder, tarName), { highWaterMark: 1 << 20 }))
  await sink.manifest(await readFile(join(folder, manifestName)))
  await verifyManifest(dataDir, signal)
}

export async function extractArchive(
  content: Readable,
  dataDir: string,
  user: ServerUser | undefined,
  signal?: AbortSignal,
): Promise<void> {
  await makeDataDir(dataDir, user)
  if ((await readdir(dataDir)).length > 0) {
    throw new HoldfastError('directory_not_writable', `${dataDir} is not empty, a base backup is not unpacked over it`)
  }
  const unpack = extract()
  content.on('error', (error) => unpack.destroy(error))
  content.pipe(unpack)
  const writes = new SmallFiles(user)
  try {
    for await (const entry of unpack) {
      signal?.throwIfAborted()
      const { name, type, size } = entry.header
      const path = join(dataDir, inside(name))
      if (type === 'directory') {
        await mkdir(path, { recursive: true, mode: 0o700 })
        entry.resume()
      } else if (type === 'file' || type === 'contiguous-file') {
        if ((size ?? 0) <= smallFileBytes) {
          await writes.add(path, await collect(entry))
          continue
        }
        await writeEntry(path, entry, signal)
      } else {
        throw new HoldfastError('server_failed', `the base backup has a ${type} ${name}; tablespaces are not supported`)
      }
      await giveTo(user, path)
    }
    await writes.finish()
  } catch (error) {
    content.destroy()
    await writes.finish().catch(() => undefined)
    signal?.throwIfAborted()
    throw fileFailure(error, dataDir)
  }
  await chmod(dataDir, 0o700)
}

function inside(name: string): string {
  const path = normalize(name)
  assert(!path.startsWith('/') && !path.split('/').includes('..'), `a path of the backup leaves its directory: ${name}`)
  return path
}

/** Writes small files beside the reading of the next ones: a data directory has a thousand of them. */
class SmallFiles {
  readonly #user: ServerUser | undefined
  readonly #writing = new Set<Promise<void>>()
  #failure: { readonly error: unknown } | undefined

  constructor(user: ServerUser | undefined) {
    this.#user = user
  }

  /** Begins to write a file; waits while too many are under way. Throws the failure of an earlier one. */
  async add(path: string, bytes: Uint8Array): Promise<void> {
    while (this.#writing.size >= writesMax) await Promise.race(this.#writing)
    this.#raise()
    const writing = this.#write(path, bytes)
      .catch((error: unknown) => {
        this.#failure ??= { error }
      })
      .finally(() => this.#writing.delete(writing))
    this.#writing.add(writing)
  }

  async finish(): Promise<void> {
    await Promise.all(this.#writing)
    this.#raise()
  }

  async #write(path: string, bytes: Uint8Array): Promise<void> {
    await writeFile(path, bytes, { mode: 0o600 })
    await giveTo(this.#user, path)
  }

  #raise(): void {
    if (this.#failure !== undefined) throw this.#failure.error
  }
}

async function collect(content: AsyncIterable<unknown>): Promise<Uint8Array> {
  const chunks: Uint8Array[] = []
  for await (const chunk of content) chunks.push(toBytes(chunk))
  return Buffer.concat(chunks)
}

async function writeEntry(
  path: string,
  content: AsyncIterable<unknown>,
  signal: AbortSignal | undefined,
): Promise<void> {
  const file = await open(path, 'w', 0o600)
  try {
    // `writeFile` of a handle goes on where the last one ended, and writes all of it.
    for await (const chunk of content) {
      signal?.throwIfAborted()
      await file.writeFile(toBytes(chunk))
    }
  } finally {
    await file.close()
  }
}

function toBytes(chunk: unknown): Uint8Array {
  assert(chunk instanceof Uint8Array, 'the content of a tar entry comes as bytes')
  return chunk
}
