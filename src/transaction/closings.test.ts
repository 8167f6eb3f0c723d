import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { toHlc } from '../hlc/hlc.ts'
import { parseLsn } from '../postgres/lsn.ts'
import type { BegunClosing, KeeperIdleness } from './closings.ts'
import { addClosing, closingsMax, nextBeat, pauseMs, withoutPublished } from './closings.ts'

const closing = (timestamp: number, own = timestamp): BegunClosing => ({
  timestamp: toHlc(BigInt(timestamp)),
  own: BigInt(own),
  position: parseLsn('0/1'),
  begunMs: timestamp,
})

/**
 * A shard on which a transaction is always in progress: one begins every `everyMs` and takes `forMs`. Time is the clock,
 * and the xid of whatever begins. Gives the greatest distance of the published timestamp after the first wait.
 */
function greatestLagMs(beatMs: number, everyMs: number, forMs: number): number {
  let begun: readonly BegunClosing[] = []
  let closedMs = 0
  let greatest = 0
  for (let nowMs = 0; nowMs <= 20 * (forMs + beatMs); nowMs += beatMs) {
    const oldest = Math.ceil((nowMs - forMs + 1) / everyMs) * everyMs
    if (nowMs > forMs + 2 * beatMs) greatest = Math.max(greatest, nowMs - closedMs)
    const reached = begun.filter(({ own }) => own < oldest).map(({ timestamp }) => Number(timestamp))
    closedMs = Math.max(closedMs, ...reached)
    begun = withoutPublished(addClosing(begun, closing(nowMs)), toHlc(BigInt(closedMs)))
  }
  return greatest
}

describe('closings', () => {
  const beat = fc.integer({ min: 1, max: 10 })
  const every = fc.integer({ min: 1, max: 20 })

  test('with a transaction always in progress, what is published trails by one of its lengths and two beats', () => {
    const beats = fc.integer({ min: 1, max: closingsMax - 2 })
    fc.assert(
      fc.property(beat, every, beats, (beatMs, everyMs, length) => {
        const forMs = length * beatMs
        expect(greatestLagMs(beatMs, everyMs, forMs)).toBeLessThanOrEqual(forMs + everyMs + 2 * beatMs)
      }),
    )
  })

  test('with longer ones it trails by less than two of their lengths, as few closings as are kept', () => {
    const beats = fc.integer({ min: closingsMax, max: 20 * closingsMax })
    fc.assert(
      fc.property(beat, every, beats, (beatMs, everyMs, length) => {
        const forMs = length * beatMs
        expect(greatestLagMs(beatMs, everyMs, forMs)).toBeLessThan(2 * forMs)
      }),
      { numRuns: 20 },
    )
  })

  test('the published go, and the others stay in order', () => {
    const begun = [1, 2, 3].reduce<readonly BegunClosing[]>((all, at) => addClosing(all, closing(at)), [])
    expect(withoutPublished(begun, toHlc(2n))).toEqual([closing(3)])
  })

  test('of two with one timestamp the first stays: its xid is older', () => {
    expect(addClosing([closing(5, 10)], closing(5, 11))).toEqual([closing(5, 10)])
  })

  test('however long they wait, few are kept: the first, the last, and some between', () => {
    let begun: readonly BegunClosing[] = []
    for (let at = 1; at <= 10_000; at += 1) {
      begun = addClosing(begun, closing(at))
      expect(begun.length).toBeLessThanOrEqual(closingsMax)
      expect(begun[0]).toEqual(closing(1))
      expect(begun.at(-1)).toEqual(closing(at))
    }
  })
})

describe('the next beat', () => {
  const pace = { activeMs: 5, trailMs: 25, quietMs: 100, activeForMs: 250, heartbeatMs: 1_000 }
  const idle: KeeperIdleness = { sinceUsedMs: 250, sinceBegunMs: 999, isWaiting: false }

  test.each<[string, Partial<KeeperIdleness>, string]>([
    ['closes while the shard is used', { sinceUsedMs: 249 }, 'close'],
    ['closes while the shard is used and held back', { sinceUsedMs: 0, isWaiting: true }, 'close'],
    ['closes once a heartbeat', { sinceBegunMs: 1_000 }, 'close'],
    ['publishes what was begun when it was used', { isWaiting: true }, 'advance'],
    ['is none when nobody needs it', {}, 'sleep'],
  ])('%s', (_, change, expected) => {
    expect(nextBeat({ ...idle, ...change }, pace)).toBe(expected)
  })

  test.each([
    ['close', false, 0, 25],
    ['close', false, 10, 15],
    ['close', false, 10_000, 5],
    ['close', true, 0, 5],
    ['close', true, 10_000, 5],
    ['advance', false, 0, 5],
    ['advance', true, 0, 5],
    ['advance', false, 400, 50],
    ['advance', false, 10_000, 100],
  ] as const)('%s, asked for: %s, after a wait of %i ms comes in %i ms', (next, isAsked, waitedMs, expected) => {
    expect(pauseMs(next, { isAsked, waitedMs }, pace)).toBe(expected)
  })
})
