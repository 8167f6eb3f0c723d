import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { takeLock } from './supervisor-lock.ts'

let folder: string
let path: string

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'hf-lock-'))
  path = join(folder, 'supervisor.lock')
})

afterEach(() => rm(folder, { recursive: true, force: true }))

const dead = JSON.stringify({ pid: 2 ** 30, since: 'yesterday', startTicks: '1' })

describe('F1: the lock of a data directory', () => {
  test('is refused while its holder lives, with who holds it', async () => {
    const lock = await takeLock(path)
    await expect(takeLock(path)).rejects.toMatchObject({ code: 'fleet_locked', detail: { pid: process.pid } })
    await lock.release()
  })

  test('of a holder that died goes to one of those who want it', async () => {
    for (let round = 0; round < 20; round++) {
      await writeFile(path, dead)
      const results = await Promise.allSettled(Array.from({ length: 8 }, () => takeLock(path)))
      const taken = results.flatMap((result) => (result.status === 'fulfilled' ? [result.value] : []))
      expect(taken).toHaveLength(1)
      await taken[0]?.release()
    }
  })

  test('that was released twice is not taken from the next holder', async () => {
    const first = await takeLock(path)
    await first.release()
    const second = await takeLock(path)
    await first.release()
    await expect(takeLock(path)).rejects.toMatchObject({ code: 'fleet_locked' })
    await second.release()
  })
})
