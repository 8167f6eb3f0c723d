import { describe, expect, test } from 'vitest'
import { parsePgoutput } from './pgoutput.ts'

/** Builds a message: texts end with a zero, numbers are given with their size. */
function message(...parts: (string | readonly [1 | 2 | 4 | 8, number | bigint] | Buffer)[]): Buffer {
  return Buffer.concat(
    parts.map((part) => {
      if (typeof part === 'string') return Buffer.from(part)
      if (Buffer.isBuffer(part)) return part
      const bytes = Buffer.alloc(8)
      bytes.writeBigInt64BE(BigInt(part[1]))
      return bytes.subarray(8 - part[0])
    }),
  )
}

const value = (text: string) => message('t', [4, Buffer.byteLength(text)], text)

describe('a message of the output plugin', () => {
  test('begins and ends a transaction with its place and time', () => {
    const begin = message('B', [8, 0x1_0000_0abcn], [8, 1_500_000], [4, 4_294_967_295])
    expect(parsePgoutput(begin)).toEqual({
      kind: 'begin',
      commitLsn: 0x1_0000_0abcn,
      committedAtMs: Date.UTC(2000, 0, 1) + 1500,
      xid: 4_294_967_295,
    })
    const commit = message('C', [1, 0], [8, 100], [8, 148], [8, 0])
    expect(parsePgoutput(commit)).toEqual({ kind: 'commit', commitLsn: 100n, endLsn: 148n })
  })

  test('describes a relation', () => {
    const columns = message([1, 1], 'id\0', [4, 20], [4, -1], [1, 0], 'größe\0', [4, 1043], [4, 24])
    expect(parsePgoutput(message('R', [4, 16_385], 'public\0', 'payroll runs\0', 'f', [2, 2], columns))).toEqual({
      kind: 'relation',
      id: 16_385,
      schema: 'public',
      table: 'payroll runs',
      replicaIdentity: 'full',
      columns: [
        { name: 'id', isKey: true, typeId: 20, typeModifier: -1 },
        { name: 'größe', isKey: false, typeId: 1043, typeModifier: 24 },
      ],
    })
  })

  test('carries rows with nulls, empty texts and stored values that did not change', () => {
    const row = message([2, 4], value('7'), 'n', value(''), 'u')
    expect(parsePgoutput(message('I', [4, 9], 'N', row))).toEqual({
      kind: 'insert',
      relationId: 9,
      after: ['7', null, '', undefined],
    })
    const old = message([2, 1], value('ö'))
    const neu = message([2, 1], value('ü'))
    expect(parsePgoutput(message('U', [4, 9], 'O', old, 'N', neu))).toMatchObject({ before: ['ö'], after: ['ü'] })
    expect(parsePgoutput(message('U', [4, 9], 'N', neu))).toMatchObject({ before: null, after: ['ü'] })
    expect(parsePgoutput(message('D', [4, 9], 'K', old))).toEqual({ kind: 'delete', relationId: 9, before: ['ö'] })
    expect(parsePgoutput(message('T', [4, 2], [1, 3], [4, 9], [4, 10]))).toEqual({
      kind: 'truncate',
      relationIds: [9, 10],
    })
  })

  test('carries a message of ours, and others that nothing depends on', () => {
    const own = message('M', [1, 1], [8, 5], 'holdfast.x\0', [4, 2], Buffer.from([0, 255]))
    expect(parsePgoutput(own)).toEqual({ kind: 'message', prefix: 'holdfast.x', content: Buffer.from([0, 255]) })
    expect(parsePgoutput(message('Y', [4, 1], 'public\0', 'mood\0'))).toEqual({ kind: 'other' })
    expect(parsePgoutput(message('O', [8, 1], 'elsewhere\0'))).toEqual({ kind: 'other' })
  })

  test('that is cut short, too long, binary or of another protocol version is refused', () => {
    const whole = message('I', [4, 9], 'N', [2, 1], value('seven'))
    for (let length = 1; length < whole.length; length++) {
      expect(() => parsePgoutput(whole.subarray(0, length))).toThrow()
    }
    expect(() => parsePgoutput(message(whole, [1, 0]))).toThrow('ends where it should')
    expect(() => parsePgoutput(message('I', [4, 9], 'N', [2, 1], 'b', [4, 1], 'x'))).toThrow('as text')
    expect(() => parsePgoutput(message('S', [4, 1], [1, 1]))).toThrow('protocol version 1')
  })
})
