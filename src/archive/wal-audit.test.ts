import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { Lsn } from '../postgres/lsn.ts'
import type { TimelineHistory } from './timeline.ts'
import { firstTimeline } from './timeline.ts'
import { auditWay, damagedKey, extendWay, findWay } from './wal-audit.ts'
import type { SegmentFile, WalInventory } from './wal-inventory.ts'
import { nextSegment } from './wal-resume.ts'

const size = 1 << 20
const at = (segment: number, offset = 0) => BigInt(segment * size + offset) as Lsn

/** Numbers of whole segments by timeline; a trailing number in `partial` is being received, `bytes` of it are there. */
function inventory(
  whole: Record<number, number[]>,
  partial: Record<number, number> = {},
  bytes: Record<number, number> = {},
): WalInventory {
  const timelines = [...new Set([...Object.keys(whole), ...Object.keys(partial)])].map(Number)
  return new Map(
    timelines.map((timeline) => {
      const segments = new Map<bigint, SegmentFile>()
      const open = partial[timeline]
      if (open !== undefined) segments.set(BigInt(open), { state: 'partial', bytes: bytes[timeline] ?? size / 2 })
      for (const number of whole[timeline] ?? []) segments.set(BigInt(number), { state: 'whole', bytes: size })
      return [timeline, segments]
    }),
  )
}

function way(found: WalInventory, history: TimelineHistory, from: Lsn, to?: Lsn, damaged: string[] = []) {
  const range = to === undefined ? { from } : { from, to }
  return findWay({ ...range, history, inventory: found, segmentBytes: size, damaged: new Set(damaged) })
}

const steps = (found: ReturnType<typeof findWay>) => found.steps.map(({ timeline, number }) => `${timeline}/${number}`)

describe('the way through the log', () => {
  test('goes over whole segments to the one that is being received', () => {
    const found = way(inventory({ 1: [3, 4, 5] }, { 1: 6 }), firstTimeline, at(3, 77))
    expect(steps(found)).toEqual(['1/3', '1/4', '1/5', '1/6'])
    expect(found.gaps).toEqual([])
  })

  test('HZ-A1: ends before a missing segment, and names it, although later ones are there', () => {
    const found = way(inventory({ 1: [3, 4, 7, 8, 10] }, { 1: 11 }), firstTimeline, at(3))
    expect(steps(found)).toEqual(['1/3', '1/4'])
    expect(found.gaps).toEqual([
      { timeline: 1, from: at(5), to: at(7) },
      { timeline: 1, from: at(9), to: at(10) },
    ])
    expect(found.beyond.map(({ number }) => number)).toEqual([7n, 8n, 10n, 11n])
  })

  test('HZ-A1: takes a segment that was left unfinished behind later ones for a gap', () => {
    const found = way(inventory({ 1: [3, 5] }, { 1: 4 }), firstTimeline, at(3))
    expect(steps(found)).toEqual(['1/3', '1/4'])
    expect(found.gaps).toEqual([{ timeline: 1, from: at(4), to: at(5) }])
  })

  test('ends before a damaged segment', () => {
    const found = way(inventory({ 1: [3, 4, 5] }), firstTimeline, at(3), undefined, [damagedKey(1, 4n)])
    expect(steps(found)).toEqual(['1/3'])
  })

  test('knows that what was asked for is not all there', () => {
    const found = way(inventory({ 1: [3, 4] }), firstTimeline, at(3), at(6, 1))
    expect(found.gaps).toEqual([{ timeline: 1, from: at(5), to: at(7) }])
    expect(way(inventory({ 1: [3, 4] }), firstTimeline, at(3), at(5)).gaps).toEqual([])
  })

  test('goes on by a segment for a record that ends behind it, as far as there are some, and calls nothing a gap', () => {
    const found = inventory({ 1: [3, 4, 5] }, { 1: 6 })
    const question = {
      history: firstTimeline,
      inventory: found,
      segmentBytes: size,
      from: at(3),
      to: at(5),
      damaged: new Set<string>(),
    }
    const [short, longer] = [findWay(question), extendWay(question, findWay(question))]
    expect(steps(short)).toEqual(['1/3', '1/4'])
    expect(steps(longer)).toEqual(['1/3', '1/4', '1/5'])
    const longest = extendWay(question, longer)
    expect(steps(longest)).toEqual(['1/3', '1/4', '1/5', '1/6'])
    expect(extendWay(question, longest)).toBe(longest)
    expect(longest.gaps).toEqual([])
  })

  const promoted: TimelineHistory = { timeline: 2, parents: [{ timeline: 1, switchLsn: at(5, 500) }] }

  test('changes to the timeline of a promotion in the segment where it happened', () => {
    const found = way(inventory({ 1: [3, 4, 5, 6, 7], 2: [5, 6] }, { 2: 7 }), promoted, at(3))
    expect(steps(found)).toEqual(['1/3', '1/4', '2/5', '2/6', '2/7'])
  })

  test('keeps to the old timeline in the segment of a promotion until the new one has more of it', () => {
    const found = (old: number, received: number) =>
      way(inventory({ 1: [3, 4] }, { 1: 5, 2: 5 }, { 1: old, 2: received }), promoted, at(3)).steps.at(-1)
    expect(found(400, 300)).toEqual({ timeline: 1, number: 5n, state: 'partial', limit: at(5, 500) })
    expect(found(900, 400)).toMatchObject({ timeline: 1 })
    // What the old timeline has behind the promotion does not count.
    expect(found(900, 501)).toMatchObject({ timeline: 2, limit: null })
    expect(found(400, 400)).toMatchObject({ timeline: 2 })
    const wholeOnOld = way(inventory({ 1: [3, 4, 5, 6] }, { 2: 5 }, { 2: 400 }), promoted, at(3))
    expect(steps(wholeOnOld)).toEqual(['1/3', '1/4', '1/5'])
  })

  test('does not go on along what the promotion left behind', () => {
    const found = way(inventory({ 1: [3, 4, 5, 6, 7] }), promoted, at(3))
    expect(steps(found)).toEqual(['1/3', '1/4', '1/5'])
    expect(found.steps.at(-1)?.limit).toBe(at(5, 500))
    expect(way(inventory({ 1: [3, 4, 5, 6, 7] }), promoted, at(3), at(6, 1)).gaps).not.toEqual([])
  })

  test('is never more than what PostgreSQL could follow: neighbours are neighbours, and all but the last are whole', () => {
    const numbers = fc.uniqueArray(fc.integer({ min: 0, max: 12 }))
    fc.assert(
      fc.property(numbers, numbers, fc.integer({ min: 0, max: 12 * size }), fc.nat(12), (one, two, switchAt, from) => {
        const history = { timeline: 2, parents: [{ timeline: 1, switchLsn: BigInt(switchAt) as Lsn }] }
        const found = way(inventory({ 1: one, 2: two }), history, at(from))
        for (const [index, step] of found.steps.entries()) {
          expect(step.number).toBe(BigInt(from + index))
          expect(step.timeline === 1 ? one : two).toContain(Number(step.number))
          if (step.timeline === 2) expect(step.number).toBeGreaterThanOrEqual(BigInt(Math.floor(switchAt / size)))
          if (index < found.steps.length - 1) expect([step.state, step.limit]).toEqual(['whole', null])
        }
      }),
    )
  })
})

test('an audit without a record behind its start has come nowhere', () => {
  const found = way(inventory({}), firstTimeline, at(3))
  expect(auditWay({ from: at(3) }, found, undefined, [])).toMatchObject({ contiguousThrough: at(3), lastRecord: null })
})

describe('the receiver goes on', () => {
  test('with the segment behind the last whole one of the server’s history', () => {
    expect(nextSegment(inventory({ 1: [3, 4] }, { 1: 5 }), firstTimeline, size, at(1))).toEqual({
      timeline: 1,
      number: 5n,
    })
  })

  test('with what the slot keeps, when nothing is there', () => {
    expect(nextSegment(new Map(), firstTimeline, size, at(7, 9))).toEqual({ timeline: 1, number: 7n })
  })

  test('from where the histories part, when the archive followed a server that was left behind', () => {
    const promoted: TimelineHistory = { timeline: 2, parents: [{ timeline: 1, switchLsn: at(5, 500) }] }
    expect(nextSegment(inventory({ 1: [3, 4, 5, 6, 7] }), promoted, size, at(9))).toEqual({ timeline: 2, number: 5n })
    expect(nextSegment(inventory({ 1: [3] }), promoted, size, at(9))).toEqual({ timeline: 1, number: 4n })
    expect(nextSegment(inventory({ 1: [3, 4], 2: [5, 6] }), promoted, size, at(9))).toEqual({ timeline: 2, number: 7n })
  })

  test('when the histories part exactly between two segments', () => {
    const promoted: TimelineHistory = { timeline: 2, parents: [{ timeline: 1, switchLsn: at(5) }] }
    expect(nextSegment(inventory({ 1: [4, 5] }), promoted, size, at(9))).toEqual({ timeline: 2, number: 5n })
  })
})
