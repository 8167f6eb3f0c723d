import { link, open, rename, rm } from 'node:fs/promises'
import { dirname } from 'node:path'
import type { Readable } from 'node:stream'
import { fileFailure } from './file-failure.ts'
import { newRandomUuid } from './random.ts'

/**
 * Files that are whole or absent after a crash.
 *
 * Content goes to a name of its own first and is flushed; then the file takes its final name and the folder is
 * flushed, since a rename is only an entry in the folder. What bears its final name can be relied on; whoever
 * reports it as stored does so after these functions have resolved, never before.
 */
const unfinishedSuffix = '.unfinished'

/** Throws `disk_full` or `directory_not_writable`, or what the content threw. */
export async function storeDurably(path: string, content: Uint8Array | Readable): Promise<void> {
  const unfinished = `${path}${unfinishedSuffix}`
  try {
    const file = await open(unfinished, 'w', 0o600)
    try {
      if (content instanceof Uint8Array) await file.writeFile(content)
      else for await (const chunk of content) await writeFully(file, chunk)
      await file.sync()
    } finally {
      await file.close()
    }
    await rename(unfinished, path)
  } catch (error) {
    await rm(unfinished, { force: true })
    throw fileFailure(error, path)
  }
  await syncFolder(dirname(path))
}

/**
 * Stores a file under a name that must be free: of two processes that try, one fails with `EEXIST`, and what the other
 * stored stays.
 */
export async function storeNew(path: string, content: Uint8Array): Promise<void> {
  const unfinished = `${path}.${newRandomUuid()}${unfinishedSuffix}`
  try {
    await storeDurably(unfinished, content)
    await link(unfinished, path)
  } finally {
    await rm(unfinished, { force: true })
  }
  await syncFolder(dirname(path))
}

/** `write` may take less than it was given, most of all on a file system that is about to be full. */
async function writeFully(file: Awaited<ReturnType<typeof open>>, chunk: Buffer): Promise<void> {
  for (let written = 0; written < chunk.length; ) {
    written += (await file.write(chunk, written, chunk.length - written)).bytesWritten
  }
}

/** Makes created, renamed and removed entries of a folder survive a crash. */
export async function syncFolder(path: string): Promise<void> {
  const folder = await open(path, 'r')
  try {
    await folder.sync()
  } finally {
    await folder.close()
  }
}
