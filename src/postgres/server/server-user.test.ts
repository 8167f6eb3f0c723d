import { chmod, mkdir, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { canEnter, parsePasswd, serverUser } from './server-user.ts'

test('accounts are read from a passwd file; lines that are none are passed over, the first of a name counts', () => {
  const text =
    'root:x:0:0:root:/root:/bin/sh\n# comment\n+::::::\npostgres:x:101:104::/:/bin/sh\npostgres:x:7:7::/:/bin/sh\n'
  const accounts = parsePasswd(text)
  expect([...accounts.keys()]).toEqual(['root', 'postgres'])
  expect(accounts.get('postgres')).toEqual({ name: 'postgres', uid: 101, gid: 104 })
})

test('servers run as another account exactly when this process is root', async () => {
  const user = await serverUser()
  if (process.getuid?.() === 0) expect(user?.uid).toBeGreaterThan(0)
  else expect(user).toBeUndefined()
})

test('a path can be entered when every folder on it can, by the class of modes that applies to the account', async () => {
  const root = await mkdtemp(join(tmpdir(), 'hfu-'))
  const inner = join(root, 'inner')
  await mkdir(inner)
  const owner = { name: 'owner', uid: process.getuid?.() ?? 0, gid: 4_000_000 }
  const member = { name: 'member', uid: 4_000_001, gid: process.getgid?.() ?? 0 }
  const other = { name: 'other', uid: 4_000_002, gid: 4_000_002 }
  const enter = async (outer: number) => {
    await chmod(root, outer)
    return Promise.all([owner, member, other].map((user) => canEnter(join(inner, 'not there yet'), user)))
  }
  await chmod(inner, 0o755)
  expect(await enter(0o711)).toEqual([true, true, true])
  expect(await enter(0o710)).toEqual([true, true, false])
  expect(await enter(0o701)).toEqual([true, false, true])
  expect(await enter(0o700)).toEqual([true, false, false])
  expect(await enter(0o755)).toEqual([true, true, true])
  await chmod(inner, 0o644)
  expect(await canEnter(inner, other)).toBe(false)
  expect(await canEnter(root, undefined)).toBe(true)
  await rm(root, { recursive: true })
})
