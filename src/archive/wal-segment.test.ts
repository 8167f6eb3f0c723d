import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { Lsn } from '../postgres/lsn.ts'
import {
  isSegmentSize,
  parseSegmentName,
  segmentName,
  segmentNumber,
  segmentStart,
  timelineOfSegment,
} from './wal-segment.ts'

const mb = 1 << 20
const anySize = fc.integer({ min: 0, max: 10 }).map((shift) => mb << shift)

describe('the name of a segment', () => {
  test('is PostgreSQL’s', () => {
    expect(segmentName({ timeline: 2, number: 0x1a3n }, 16 * mb)).toBe('0000000200000001000000A3')
    expect(segmentName({ timeline: 1, number: 0x1a3n }, 4 * mb)).toBe('0000000100000000000001A3')
    expect(segmentName({ timeline: 1, number: 0x5a3n }, 4 * mb)).toBe('0000000100000001000001A3')
  })

  test('survives being parsed, for every segment size', () => {
    const numbers = fc.bigInt({ min: 0n, max: (1n << 33n) - 1n })
    fc.assert(
      fc.property(anySize, fc.integer({ min: 1, max: 0xffff_ffff }), numbers, (size, timeline, number) => {
        expect(isSegmentSize(size)).toBe(true)
        const segment = { timeline, number: (number % (1n << 64n)) / BigInt(size / mb) }
        expect(parseSegmentName(segmentName(segment, size), size)).toEqual(segment)
      }),
    )
  })

  test('that is none is not taken for one', () => {
    for (const name of [
      '',
      '00000001.history',
      '0000000100000000000001A3.partial',
      '000000010000000000000400',
      'x'.repeat(24),
    ]) {
      expect(parseSegmentName(name, 4 * mb)).toBeUndefined()
    }
  })
})

test('a position lies in its segment', () => {
  fc.assert(
    fc.property(anySize, fc.bigInt({ min: 0n, max: (1n << 60n) - 1n }), (size, value) => {
      const start = segmentStart(segmentNumber(value as Lsn, size), size)
      expect(start).toBeLessThanOrEqual(value)
      expect(value - start).toBeLessThan(BigInt(size))
    }),
  )
})

test('a segment in which a promotion happened is the new timeline’s', () => {
  const history = { timeline: 2, parents: [{ timeline: 1, switchLsn: (2n * 4n * BigInt(mb) + 100n) as Lsn }] }
  expect([0n, 1n, 2n, 3n].map((number) => timelineOfSegment(history, number, 4 * mb))).toEqual([1, 1, 2, 2])
})
