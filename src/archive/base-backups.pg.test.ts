import { mkdir, readdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { archiveOf } from '../../test/support/archive.ts'
import { FoundedShard } from '../../test/support/founded-shard.ts'
import type { RegionName } from '../directory/topology.ts'

let shard: FoundedShard

beforeAll(async () => {
  shard = await FoundedShard.open('local')
})

afterAll(async () => {
  await shard[Symbol.asyncDispose]()
})

test('what a backup left whose process was killed is removed by the next one, unless another is being taken', async () => {
  const archive = archiveOf(shard.root)
  const base = join(archive.path, 'base')
  const take = () =>
    archive.takeBaseBackup({
      target: shard.target(),
      region: 'eu-west' as RegionName,
      decision: { allowed: true },
    })
  const brokenOff = join(base, '20260402T100005.120Z')
  await mkdir(brokenOff, { recursive: true })
  await writeFile(join(brokenOff, 'base.tar'), 'the first bytes')

  const other = await shard.connect()
  await other.query(`select pg_advisory_lock_shared(hashtextextended('holdfast.backup', 0))`)
  const first = await take()
  expect((await readdir(base)).toSorted()).toEqual(['20260402T100005.120Z', first.id])
  other.release()

  await expect
    .poll(async () => (await take()).id.length > 0 && (await readdir(base)).includes('20260402T100005.120Z'))
    .toBe(false)
  const ids = (await archive.listBaseBackups()).map(({ id }) => id)
  expect((await readdir(base)).toSorted()).toEqual(ids)
  expect(ids).toContain(first.id)
})
