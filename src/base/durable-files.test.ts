import type { FileHandle } from 'node:fs/promises'
import { mkdtemp, open, readdir, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { setImmediate } from 'node:timers/promises'
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { storeDurably } from './durable-files.ts'

let root: string

beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), 'hff-'))
})

afterEach(async () => {
  await rm(root, { recursive: true })
})

test('HZ-A5: content appears under its final name as a whole', async () => {
  await storeDurably(join(root, 'bytes'), Buffer.from('whole'))
  await storeDurably(join(root, 'stream'), Readable.from([Buffer.from('a '), Buffer.from('stream')]))
  expect(await readFile(join(root, 'bytes'), 'utf8')).toBe('whole')
  expect(await readFile(join(root, 'stream'), 'utf8')).toBe('a stream')
  expect(await readdir(root)).toHaveLength(2)
})

test('HZ-A5: the file is flushed before it takes its name, and the folder after, before the caller is told', async () => {
  const path = join(root, 'name')
  const folder = await open(root)
  const handle = Object.getPrototypeOf(folder) as FileHandle
  const flushed: string[] = []
  const spy = vi.spyOn(handle, 'sync').mockImplementation(async () => {
    const names = await readdir(root)
    await setImmediate()
    flushed.push(names.join())
  })
  await storeDurably(path, Buffer.from('content'))
  spy.mockRestore()
  await folder.close()
  expect(flushed).toEqual(['name.unfinished', 'name'])
})

test('HZ-A5: a disk that is full while content is written is named as such, and no file is left', async () => {
  const full = Object.assign(new Error('no space left on device'), { code: 'ENOSPC' })
  const content = Readable.from(
    (async function* () {
      yield Buffer.from('half')
      throw full
    })(),
  )
  await expect(storeDurably(join(root, 'name'), content)).rejects.toMatchObject({ code: 'disk_full', cause: full })
  expect(await readdir(root)).toEqual([])
})

test('HZ-A5: content that breaks off leaves no file, and what stood there before stays', async () => {
  await storeDurably(join(root, 'kept'), Buffer.from('before'))
  let namesOnTheWay: string[] = []
  const broken = Readable.from(
    (async function* () {
      yield Buffer.from('half')
      namesOnTheWay = await readdir(root)
      throw new Error('the source broke off')
    })(),
  )
  await expect(storeDurably(join(root, 'kept'), broken)).rejects.toThrow('broke off')
  expect(namesOnTheWay.sort()).toEqual(['kept', 'kept.unfinished'])
  expect(await readdir(root)).toEqual(['kept'])
  expect(await readFile(join(root, 'kept'), 'utf8')).toBe('before')
})
