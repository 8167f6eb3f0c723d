import { spawn } from 'node:child_process'
import { expect, test } from 'vitest'
import { childrenOf, lives, parsePidFile, signal } from './processes.ts'

test('postmaster.pid gives the process and its state; a file being written gives none', () => {
  const text = '4744\n/data\n1763846000\n5432\n/run/x\n\n  123456   0\nready   \n'
  expect(parsePidFile(text)).toEqual({ pid: 4744, status: 'ready' })
  expect(parsePidFile(text.replace('ready   ', 'standby '))).toEqual({ pid: 4744, status: 'standby' })
  expect(parsePidFile('4744\n/data\n')).toEqual({ pid: 4744, status: 'unknown' })
  expect(parsePidFile('')).toBeUndefined()
})

test('a process that has ended does not live, also when nobody has asked for its end yet', async () => {
  // The shell does not wait for its child, which stays in the process table once it has ended.
  const shell = spawn('/bin/sh', ['-c', 'sleep 600 & exec sleep 600'], { stdio: 'ignore' })
  const pid = shell.pid ?? 0
  await expect.poll(() => childrenOf(pid), { timeout: 20_000 }).toHaveLength(1)
  const [child] = await childrenOf(pid)
  expect(await lives(child ?? 0)).toBe(true)
  signal(child ?? 0, 'SIGKILL')
  await expect.poll(() => lives(child ?? 0), { timeout: 20_000 }).toBe(false)
  expect(signal(child ?? 0, 0)).toBe(true)
  expect(await childrenOf(pid)).toEqual([])
  shell.kill('SIGKILL')
})
