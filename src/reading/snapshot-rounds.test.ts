import fc from 'fast-check'
import { expect, test } from 'vitest'
import type { ShardName, TransactionId } from '../directory/topology.ts'
import { toHlc } from '../hlc/hlc.ts'
import type { GlobalTransaction } from './read-store.ts'
import type { SnapshotView } from './snapshot-rounds.ts'
import { findFractures, isBranchOn, leastClosed } from './snapshot-rounds.ts'

const [a, b, c] = ['a', 'b', 'c'] as [ShardName, ShardName, ShardName]

const transaction = (id: string, at: number, ...shards: ShardName[]): GlobalTransaction => ({
  transactionId: id as TransactionId,
  commitTimestamp: toHlc(BigInt(at)),
  shards,
})

const view = (closed: number, ...shown: GlobalTransaction[]): SnapshotView => ({
  closedTimestamp: toHlc(BigInt(closed)),
  shown,
})

const found = (views: [ShardName, SnapshotView][]) =>
  [...findFractures(new Map(views))].map(([shard, missing]) => [
    shard,
    missing.map(({ transactionId }) => transactionId),
  ])

const t = transaction('t', 10, a, b)

test.each([
  [
    'shown by both',
    [
      [a, view(5, t)],
      [b, view(5, t)],
    ],
    [],
  ],
  [
    'shown by none',
    [
      [a, view(5)],
      [b, view(5)],
    ],
    [],
  ],
  [
    'shown at home, not at the participant',
    [
      [a, view(5, t)],
      [b, view(5)],
    ],
    [['b', ['t']]],
  ],
  [
    'shown at the participant, not at home',
    [
      [a, view(5)],
      [b, view(5, t)],
    ],
    [['a', ['t']]],
  ],
  [
    'closed where it is not listed',
    [
      [a, view(5, t)],
      [b, view(10)],
    ],
    [],
  ],
  [
    'of a shard that is not asked',
    [
      [a, view(5, t)],
      [c, view(5)],
    ],
    [],
  ],
  [
    'one of two missing',
    [
      [a, view(5, t, transaction('u', 11, a, b))],
      [b, view(5, t)],
    ],
    [['b', ['u']]],
  ],
  [
    'missing on two, told once each',
    [
      [a, view(5, transaction('v', 12, a, b, c))],
      [b, view(5)],
      [c, view(5)],
    ],
    [
      ['b', ['v']],
      ['c', ['v']],
    ],
  ],
] as [string, [ShardName, SnapshotView][], unknown][])('%s', (_, views, expected) => {
  expect(found(views)).toEqual(expected)
})

test('the least closed timestamp is what all shards show completely', () => {
  expect(leastClosed([7n, 3n, 9n].map(toHlc))).toBe(3n)
})

test('no shard at all is a snapshot of nothing', () => {
  expect(leastClosed([])).toBe(0n)
  expect(found([])).toEqual([])
})

test('at its home a transaction needs no settling', () => {
  expect(isBranchOn(a, t)).toBe(false)
  expect(isBranchOn(b, t)).toBe(true)
})

/** A history of global transactions, and for each shard which prefix of its own visibility order a snapshot shows. */
const histories = fc.record({
  written: fc.array(fc.subarray([a, b, c], { minLength: 2 }), { maxLength: 12 }),
  taken: fc.array(fc.nat(12), { minLength: 3, maxLength: 3 }),
  closed: fc.array(fc.nat(12), { minLength: 3, maxLength: 3 }),
})

test('what is not found fractured is shown by all of its shards or by none, whatever was closed', () => {
  fc.assert(
    fc.property(histories, ({ written, taken, closed }) => {
      const all = written.map((shards, index) => transaction(`t${index}`, index + 1, ...shards))
      const views = new Map<ShardName, SnapshotView>()
      const isShown = new Map<ShardName, (one: GlobalTransaction) => boolean>()
      const least = Math.min(...closed)
      for (const [index, shard] of [a, b, c].entries()) {
        const closedHere = closed[index] ?? 0
        const shows = (one: GlobalTransaction) =>
          one.shards.includes(shard) && one.commitTimestamp <= BigInt(Math.max(taken[index] ?? 0, closedHere))
        isShown.set(shard, shows)
        const listed = all.filter((one) => shows(one) && one.commitTimestamp > BigInt(least))
        views.set(shard, { closedTimestamp: toHlc(BigInt(closedHere)), shown: listed })
      }
      const fractured = all.filter((one) => {
        const sides = one.shards.map((shard) => isShown.get(shard)?.(one) === true)
        return sides.includes(true) && sides.includes(false)
      })
      const told = [...findFractures(views).values()].flat().map(({ transactionId }) => transactionId)
      expect(new Set(told)).toEqual(new Set(fractured.map(({ transactionId }) => transactionId)))
    }),
  )
})
