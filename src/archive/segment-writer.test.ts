import { execFile } from 'node:child_process'
import { mkdir, mkdtemp, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import fc from 'fast-check'
import { describe, expect, onTestFinished, test } from 'vitest'
import { isHoldfastError } from '../base/errors.ts'
import type { ShardName } from '../directory/topology.ts'
import { toLsn } from '../postgres/lsn.ts'
import { ArchiveFolder } from './archive-folder.ts'
import { SegmentWriter } from './segment-writer.ts'
import { readSegment } from './wal-inventory.ts'

const segmentBytes = 1 << 20
const first = { timeline: 1, number: 2n }
const name = '000000010000000000000002'
const start = 2 * segmentBytes

async function newFolder(): Promise<ArchiveFolder> {
  const root = await mkdtemp(join(tmpdir(), 'hf-wal-'))
  onTestFinished(() => rm(root, { recursive: true }))
  return new ArchiveFolder(root, 'eu-west/payroll' as ShardName)
}

/** The first page of a segment, and anything behind it. */
function segment(fill: number): Buffer {
  const bytes = Buffer.alloc(segmentBytes, fill)
  bytes.writeUInt16LE(0xd118, 0)
  bytes.writeUInt16LE(0x0002, 2)
  bytes.writeBigUInt64LE(BigInt(start), 8)
  bytes.writeBigUInt64LE(7n, 24)
  bytes.writeUInt32LE(segmentBytes, 32)
  return bytes
}

async function write(folder: ArchiveFolder, bytes: Buffer): Promise<void> {
  const writer = new SegmentWriter(folder, segmentBytes, first)
  try {
    await writer.write(toLsn(BigInt(start)), bytes)
    await writer.flush()
  } finally {
    await writer.close()
  }
}

describe('a segment in the archive', () => {
  test('A1: has its name only when it is whole, with a checksum beside it that sha256sum reads', async () => {
    const folder = await newFolder()
    await write(folder, segment(1).subarray(0, -1))
    expect(await readdir(folder.walFolderOf(1))).toEqual([`${name}.partial`])
    await write(folder, segment(1))
    expect(await readdir(folder.walFolderOf(1))).toEqual([name, `${name}.sha256`])
    await promisify(execFile)('sha256sum', ['-c', `${name}.sha256`], { cwd: folder.walFolderOf(1) })
    const identity = { systemId: '7', segmentBytes }
    expect(await readSegment(folder, first, identity)).toMatchObject({ ok: true })
    expect(await readSegment(folder, first, { ...identity, systemId: '8' })).toMatchObject({ ok: false })
  })

  test('A1: keeps the bytes of an earlier attempt until they are written again', async () => {
    const folder = await newFolder()
    await write(folder, segment(1).subarray(0, 5000))
    await write(folder, segment(1).subarray(0, 100))
    const partial = await readFile(join(folder.walFolderOf(1), `${name}.partial`))
    expect(partial.equals(segment(1).subarray(0, 5000))).toBe(true)
  })

  test('A2: is never replaced by other bytes of the same name; the same bytes are taken as there', async () => {
    const folder = await newFolder()
    await write(folder, segment(1))
    await expect(write(folder, segment(2))).rejects.toThrow('archived with other bytes')
    expect((await readFile(join(folder.walFolderOf(1), name))).equals(segment(1))).toBe(true)
    await write(folder, segment(1))
    expect(await readdir(folder.walFolderOf(1))).toEqual([name, `${name}.sha256`])
  })

  test('A2: is the same however its bytes were cut on the way', async () => {
    const whole = Buffer.concat([segment(1), Buffer.alloc(segmentBytes, 2), Buffer.alloc(77, 3)])
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.integer({ min: 1, max: segmentBytes }), { minLength: 1, maxLength: 8 }),
        async (cuts) => {
          const folder = await newFolder()
          const writer = new SegmentWriter(folder, segmentBytes, first)
          for (let at = 0, round = 0; at < whole.length; round++) {
            const length = Math.min(cuts[round % cuts.length] ?? 1, whole.length - at)
            await writer.write(toLsn(BigInt(start + at)), whole.subarray(at, at + length))
            at += Math.max(length, 1)
            if (round > 40) {
              await writer.write(toLsn(BigInt(start + at)), whole.subarray(at))
              break
            }
          }
          expect(await writer.flush()).toBe(BigInt(start + whole.length))
          await writer.close()
          const read = async (file: string) => readFile(join(folder.walFolderOf(1), file))
          const next = '000000010000000000000003'
          const parts = [await read(name), await read(next), await read('000000010000000000000004.partial')]
          expect(Buffer.concat(parts).equals(whole)).toBe(true)
        },
      ),
      { numRuns: 15 },
    )
  })

  test('HZ-A5: on a full disk is neither named nor reported, and is whole once there is room', async ({ skip }) => {
    if (process.platform !== 'linux') skip('needs /dev/full')
    const folder = await newFolder()
    await mkdir(folder.walFolderOf(1), { recursive: true })
    const partial = join(folder.walFolderOf(1), `${name}.partial`)
    await symlink('/dev/full', partial)
    const writer = new SegmentWriter(folder, segmentBytes, first)
    const full = (error: unknown) => isHoldfastError(error, 'disk_full')
    await expect(writer.write(toLsn(BigInt(start)), segment(1))).rejects.toSatisfy(full)
    expect(writer.position).toBe(BigInt(start))
    await writer.close()
    expect(await readdir(folder.walFolderOf(1))).toEqual([`${name}.partial`])
    await rm(partial)
    await write(folder, segment(1))
    expect(await readSegment(folder, first, { systemId: '7', segmentBytes })).toMatchObject({ ok: true })
  })

  test('without its checksum, or cut, is not taken for whole', async () => {
    const folder = await newFolder()
    await write(folder, segment(1))
    const path = join(folder.walFolderOf(1), name)
    const identity = { systemId: '7', segmentBytes }
    await writeFile(path, segment(1).subarray(1))
    expect(await readSegment(folder, first, identity)).toMatchObject({
      ok: false,
      reason: expect.stringContaining('bytes'),
    })
    await writeFile(path, segment(1))
    await rm(`${path}.sha256`)
    expect(await readSegment(folder, first, identity)).toMatchObject({ ok: false, reason: 'has no checksum beside it' })
  })
})
