import { execFileSync } from 'node:child_process'
import { createWriteStream } from 'node:fs'
import { mkdtemp, readdir, rm, stat } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { buffer } from 'node:stream/consumers'
import { pipeline } from 'node:stream/promises'
import { pack } from 'tar-stream'
import { expect, onTestFinished, test } from 'vitest'
import { eventually } from '../../../test/support/eventually.ts'
import { tarName, unpackStored } from './backup-sinks.ts'

/** What a tar file ends with: two blocks of zeros. */
const trailerBytes = 1_024

/** A stored backup of these bytes, which is read no faster than they come. */
async function storedAs(bytes: AsyncIterable<Uint8Array> | Iterable<Uint8Array>): Promise<string> {
  const root = await mkdtemp(join(tmpdir(), 'hf-sinks-'))
  const [stored, content] = [join(root, tarName), Readable.from(bytes)]
  execFileSync('mkfifo', [stored])
  const writing = pipeline(content, createWriteStream(stored)).catch(() => undefined)
  onTestFinished(async () => {
    content.destroy()
    await writing
    await rm(root, { recursive: true })
  })
  return root
}

async function archiveOf(files: Readonly<Record<string, number>>): Promise<Buffer> {
  const archive = pack()
  for (const [name, bytes] of Object.entries(files)) archive.entry({ name }, Buffer.alloc(bytes))
  archive.finalize()
  return (await buffer(archive)).subarray(0, -trailerBytes)
}

test('a base backup that is being unpacked hears the signal between its files', async () => {
  const files = await archiveOf(Object.fromEntries(Array.from({ length: 100 }, (_, index) => [`file-${index}`, 1_000])))
  // It has no end: as much as is asked for.
  const root = await storedAs(
    (function* () {
      for (;;) yield files
    })(),
  )
  const [dataDir, giveUp] = [join(root, 'data'), new AbortController()]
  const unpacking = unpackStored(root, dataDir, undefined, giveUp.signal).catch((error: unknown) => error)
  await eventually(async () => (await readdir(dataDir).catch(() => [])).length > 50)
  giveUp.abort(new Error('the fleet stops'))
  expect(await unpacking).toMatchObject({ message: 'the fleet stops' })
})

test('and within one of them', async () => {
  const file = await archiveOf({ large: 32 << 20 })
  const giveUp = new AbortController()
  const root = await storedAs(
    (async function* () {
      yield file.subarray(0, 4 << 20)
      await new Promise((aborted) => giveUp.signal.addEventListener('abort', aborted))
      yield file.subarray(4 << 20)
    })(),
  )
  const dataDir = join(root, 'data')
  const unpacking = unpackStored(root, dataDir, undefined, giveUp.signal).catch((error: unknown) => error)
  const written = async () => (await stat(join(dataDir, 'large')).catch(() => undefined))?.size ?? 0
  await eventually(async () => (await written()) > 0)
  giveUp.abort(new Error('the fleet stops'))
  expect(await unpacking).toMatchObject({ message: 'the fleet stops' })
  expect(await written()).toBeLessThan(file.length - 512)
})
