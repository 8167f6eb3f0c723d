import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { Lsn } from '../postgres/lsn.ts'
import type { TimelineHistory } from './timeline.ts'
import { firstTimeline, formatTimelineHistory, historyOf, parseTimelineHistory, spansOf } from './timeline.ts'

const anyHistory = fc
  .array(fc.tuple(fc.integer({ min: 1, max: 5 }), fc.bigInt({ min: 0n, max: 1n << 40n })), { maxLength: 5 })
  .map((steps): TimelineHistory => {
    let [timeline, lsn] = [0, 0n]
    const parents = steps.map(([up, further], index) => {
      timeline += index === 0 ? 1 : up
      lsn += further
      return { timeline, switchLsn: lsn as Lsn }
    })
    return { timeline: parents.length === 0 ? 1 : timeline + 1, parents }
  })

describe('a timeline history', () => {
  test('is read as PostgreSQL writes it', () => {
    const text = '1\t0/3000148\tno recovery target specified\n\n2\t0/50000A0\tbefore 2026-04-02 10:14:00+00\n'
    expect(parseTimelineHistory(3, text)).toEqual({
      timeline: 3,
      parents: [
        { timeline: 1, switchLsn: 0x3000148n },
        { timeline: 2, switchLsn: 0x50000a0n },
      ],
    })
  })

  test('survives its text form', () => {
    fc.assert(
      fc.property(anyHistory, (history) => {
        expect(parseTimelineHistory(history.timeline, formatTimelineHistory(history))).toEqual(history)
      }),
    )
  })

  test('covers every position by exactly one timeline', () => {
    fc.assert(
      fc.property(anyHistory, fc.bigInt({ min: 0n, max: 1n << 44n }), (history, lsn) => {
        const at = spansOf(history).filter(({ begin, end }) => begin <= lsn && (end === null || lsn < end))
        expect(at).toHaveLength(1)
      }),
    )
  })

  test('has the histories of its ancestors in it', () => {
    const history = parseTimelineHistory(3, '1\t0/100\tx\n2\t0/200\tx\n')
    expect(historyOf(history, 2)).toEqual({ timeline: 2, parents: [{ timeline: 1, switchLsn: 0x100n }] })
    expect(historyOf(history, 1)).toEqual(firstTimeline)
    expect(() => historyOf(history, 4)).toThrow('not an ancestor')
  })

  test('that is cut, out of order or of another timeline is refused', () => {
    for (const text of [
      '',
      '1\t0/3\tx\n1\t0/4\tx\n',
      '1\t0/4\tx\n2\t0/3\tx\n',
      '4\t0/4\tx\n',
      'one\t0/4\tx\n',
      '1\t0/',
    ]) {
      expect(() => parseTimelineHistory(3, text)).toThrow('malformed')
    }
  })
})
