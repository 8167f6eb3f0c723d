import { mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { fileFailure } from '../../base/file-failure.ts'
import { forgetOrigin, formatSettings, serverFailure, tailOf, writeSettings } from './data-directory.ts'

let root: string

beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), 'hfd-'))
})

afterEach(async () => {
  await rm(root, { recursive: true })
})

test('settings are written as PostgreSQL reads them: quotes and backslashes doubled, one a line', () => {
  expect(formatSettings({ work_mem: '5MB', fsync: false, port: 5432, cluster_name: `it's \\ here` })).toBe(
    `work_mem = '5MB'\nfsync = off\nport = 5432\ncluster_name = 'it''s \\\\ here'\n`,
  )
  expect(() => formatSettings({ cluster_name: 'a\nfsync = off' })).toThrow('line break')
})

test('a settings file is replaced as a whole and only its owner reads it', async () => {
  const path = join(root, 'holdfast.conf')
  await writeSettings(root, { work_mem: '5MB' }, undefined)
  await writeSettings(root, { port: 1 }, undefined)
  expect(await readFile(path, 'utf8')).toBe('port = 1\n')
  expect((await stat(path)).mode & 0o777).toBe(0o600)
})

test('a copied data directory forgets settings, upstream and signals of the node it came from', async () => {
  for (const name of ['holdfast.conf', 'holdfast.upstream.conf', 'standby.signal', 'postgresql.auto.conf']) {
    await writeFile(join(root, name), `primary_conninfo = 'password=secret'\n`)
  }
  await forgetOrigin(root, undefined)
  expect(await readFile(join(root, 'postgresql.auto.conf'), 'utf8')).toBe('')
  await expect(stat(join(root, 'holdfast.upstream.conf'))).rejects.toThrow('ENOENT')
  await expect(stat(join(root, 'standby.signal'))).rejects.toThrow('ENOENT')
})

test('the tail of a log begins where the last start did, and has at most fifteen lines', async () => {
  const path = join(root, 'log')
  await writeFile(path, 'old run\nnew run\n')
  expect(await tailOf(path, 8)).toBe('new run')
  await writeFile(path, Array.from({ length: 1000 }, (_, i) => `line ${i}\n`).join(''))
  expect((await tailOf(path)).split('\n')).toHaveLength(14)
  expect(await tailOf(join(root, 'absent'))).toBe('')
})

test('a full disk has its own code, from a log and from a file operation', () => {
  const log = 'FATAL:  could not write to file "pg_wal/xlogtemp.55": No space left on device'
  expect(serverFailure('the server ended', log, '/data')).toMatchObject({ code: 'disk_full' })
  expect(serverFailure('the server ended', 'FATAL: bad', '/data')).toMatchObject({
    code: 'server_failed',
    message: 'the server ended; the end of its log:\nFATAL: bad',
  })
  const denied = Object.assign(new Error('denied'), { code: 'EACCES' })
  const full = Object.assign(new Error('full'), { code: 'ENOSPC' })
  expect(fileFailure(full, '/data')).toMatchObject({ code: 'disk_full', cause: full })
  expect(fileFailure(denied, '/data')).toMatchObject({ code: 'directory_not_writable' })
  const other = new Error('other')
  expect(fileFailure(other, '/data')).toBe(other)
})
