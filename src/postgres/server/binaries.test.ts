import { chmod, lstat, mkdir, mkdtemp, readdir, readlink, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { fromPackage, locatePostgres, newestOf } from './binaries.ts'
import { serverUser } from './server-user.ts'

let root: string

beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), 'hfb-'))
  await chmod(root, 0o755)
})

afterEach(async () => {
  await rm(root, { recursive: true, force: true })
})

/** A program that answers `-V` as PostgreSQL does. */
async function fakeProgram(path: string, version: string, mode: number): Promise<void> {
  await mkdir(dirname(path), { recursive: true })
  await writeFile(path, `#!/bin/sh\necho "postgres (PostgreSQL) ${version}"\n`)
  await chmod(path, mode)
}

/** An npm package as it lies there when its install script did not run. */
async function fakePackage(mode: number): Promise<string> {
  const native = join(root, 'package', 'native')
  await fakeProgram(join(native, 'bin', 'postgres'), '18.9', mode)
  await fakeProgram(join(native, 'bin', 'initdb'), '18.9', mode)
  await mkdir(join(native, 'lib'))
  await writeFile(join(native, 'lib', 'libpq.so.5.18'), 'library')
  const links = [{ source: 'native/lib/libpq.so.5.18', target: 'native/lib/libpq.so.5' }]
  await writeFile(join(native, 'pg-symlinks.json'), JSON.stringify(links))
  await writeFile(join(native, '..', 'package.json'), JSON.stringify({ version: '18.9.0' }))
  return native
}

describe('the npm package', () => {
  test('becomes a folder with links and executable programs, without a change to the package', async () => {
    const native = await fakePackage(0o644)
    const found = await fromPackage(native, join(root, 'cache'), await serverUser())
    expect(found).toMatchObject({ version: '18.9', major: 18, source: 'npm' })
    expect((await stat(join(found.binDir, 'postgres'))).mode & 0o777).toBe(0o755)
    expect(await readlink(join(found.binDir, '..', 'lib', 'libpq.so.5'))).toBe('libpq.so.5.18')
    expect((await stat(join(native, 'bin', 'postgres'))).mode & 0o777).toBe(0o644)
    // What needs no change is linked, not copied.
    expect((await lstat(join(native, 'lib', 'libpq.so.5.18'))).nlink).toBe(2)
  })

  test('is made once by processes that race, and nothing half-made stays', async () => {
    const native = await fakePackage(0o755)
    const user = await serverUser()
    const found = await Promise.all([1, 2, 3, 4].map(() => fromPackage(native, join(root, 'cache'), user)))
    expect(new Set(found.map(({ binDir }) => binDir)).size).toBe(1)
    expect(await readdir(join(root, 'cache'))).toHaveLength(1)
  })

  test('is made anew when a part of the copy is gone', async () => {
    const native = await fakePackage(0o755)
    const user = await serverUser()
    const { binDir } = await fromPackage(native, join(root, 'cache'), user)
    await rm(join(binDir, 'postgres'))
    await fromPackage(native, join(root, 'cache'), user)
    expect((await stat(join(binDir, 'postgres'))).isFile()).toBe(true)
    expect(await readdir(join(root, 'cache'))).toHaveLength(1)
  })

  test('is not run from a folder that others can write to', async () => {
    const native = await fakePackage(0o755)
    await mkdir(join(root, 'shared'))
    await chmod(join(root, 'shared'), 0o777)
    await expect(fromPackage(native, join(root, 'shared'), undefined)).rejects.toThrow('writable by other users')
  })
})

describe('PostgreSQL of the machine', () => {
  test('is taken newest first, within the versions that are supported', async () => {
    const folders = ['14.20', '16.4', '17.1', '19.0'].map((version) => join(root, version))
    for (const folder of folders) {
      for (const name of ['postgres', 'initdb']) await fakeProgram(join(folder, name), folder.slice(-4), 0o755)
    }
    const found = await newestOf([...folders, join(root, 'absent')], undefined)
    expect(found).toEqual({ version: '17.1', major: 17, binDir: join(root, '17.1'), source: 'path' })
    expect(await newestOf([join(root, '14.20')], undefined)).toBeUndefined()
  })
})

test('the binaries that are installed here are found, and run as the account that servers run as', async () => {
  const found = await locatePostgres(join(root, 'cache'), await serverUser())
  expect(found.major).toBeGreaterThanOrEqual(15)
  expect((await stat(join(found.binDir, 'initdb'))).isFile()).toBe(true)
})
