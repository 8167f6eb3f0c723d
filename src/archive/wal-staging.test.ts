import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { toLsn } from '../postgres/lsn.ts'
import { readStaged } from './wal-staging.ts'

const segmentBytes = 1 << 20
const start = 5n * BigInt(segmentBytes)

let folder: string

/** A segment of one byte over and over, behind the header that says where it begins. */
function segment(number: bigint, fill: number): Buffer {
  const bytes = Buffer.alloc(segmentBytes, fill)
  bytes.writeUInt16LE(0xd118, 0)
  bytes.writeUInt16LE(0x0002, 2)
  bytes.writeBigUInt64LE(number * BigInt(segmentBytes), 8)
  bytes.writeUInt32LE(segmentBytes, 32)
  return bytes
}

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'hfs-'))
  // The later one is of a later timeline, whose name comes behind whatever its number is.
  await writeFile(join(folder, '000000020000000000000006'), segment(6n, 6))
  await writeFile(join(folder, '000000010000000000000005'), segment(5n, 5))
  await writeFile(join(folder, '00000002.history'), 'no segment')
})

afterAll(async () => {
  await rm(folder, { recursive: true })
})

test('a staged log is read from any position on, over segments, and no further than it goes', async () => {
  const read = async (at: bigint, length: number) => {
    const found = await readStaged(folder, toLsn(at), length)
    return { ...found, bytes: [...found.bytes] }
  }
  expect(await read(start + 100n, 3)).toEqual({ bytes: [5, 5, 5], segmentBytes })
  const end = start + BigInt(segmentBytes)
  expect(await read(end - 2n, 3)).toEqual({ bytes: [5, 5, 0x18], segmentBytes })
  expect((await read(end + BigInt(segmentBytes) - 2n, 3)).bytes).toEqual([6, 6])
  expect((await read(start - 1n, 3)).bytes).toEqual([])
})
