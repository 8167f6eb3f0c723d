import { expect, test } from 'vitest'
import type { Lsn } from '../lsn.ts'
import { checkpointRecordBytes, nextXidOfRecord } from './two-phase-files.ts'

const segmentBytes = 1 << 24
const nextXid = 0x1_0000_02f7n

/** A checkpoint of a running server as the log has it, with the headers of pages where they fall. */
function logged(at: bigint, more: { readonly manager?: number; readonly info?: number; readonly form?: number } = {}) {
  const record = Buffer.alloc(24 + 2 + 88)
  record[16] = more.info ?? 0x10
  record[17] = more.manager ?? 0
  record[24] = more.form ?? 0xff
  record[25] = 88
  record.writeBigUInt64LE(nextXid, 26 + 24)
  const log: number[] = []
  for (const byte of record) {
    const position = at + BigInt(log.length)
    if (position % 8192n === 0n) log.push(...Array<number>(position % BigInt(segmentBytes) === 0n ? 40 : 24).fill(0xaa))
    log.push(byte)
  }
  return Buffer.from(log).subarray(0, checkpointRecordBytes)
}

test.each([
  ['within a page', 0x200_0028n],
  ['over two pages, in its header', 0x200_1ff8n],
  ['over two pages, in its data', 0x200_1fd0n],
  ['over two pages, in the very number', 0x200_1fc8n],
  ['over two segments', 0x2ff_fff0n],
])('the next transaction id of a checkpoint %s', (_, at) => {
  expect(nextXidOfRecord(logged(at), at as Lsn, segmentBytes)).toBe(nextXid)
})

test.each([
  ['cut short', logged(0x200_0028n).subarray(0, 50)],
  ['of another manager', logged(0x200_0028n, { manager: 1 })],
  ['of another kind', logged(0x200_0028n, { info: 0x20 })],
  ['of another form', logged(0x200_0028n, { form: 0 })],
])('a record %s is none', (_, bytes) => {
  expect(nextXidOfRecord(bytes, 0x200_0028n as Lsn, segmentBytes)).toBeUndefined()
})
