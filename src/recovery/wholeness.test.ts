import { expect, test } from 'vitest'
import { payroll, transactionId, treasury } from '../../test/support/redo-values.ts'
import type { ShardName } from '../directory/topology.ts'
import type { GlobalsReader } from './wholeness.ts'
import { findAllHalves, findHalves } from './wholeness.ts'

const home = (number: number, participants = [treasury]) => ({ transactionId: transactionId(number), participants })
const branch = (number: number) => ({ transactionId: transactionId(number), home: payroll })
const at = (homes: number[], branches: number[]) =>
  findHalves(
    new Map([
      [payroll, { homes: homes.map((number) => home(number)), branches: [] }],
      [treasury, { homes: [], branches: branches.map(branch) }],
    ]),
  )

test('R2: a global transaction with its home and every branch is whole', () => {
  expect(at([1, 2], [2, 1])).toEqual([])
})

test('R2: one that lacks its home, or a branch, is named with what it lacks', () => {
  expect(at([1, 2], [2, 3])).toEqual([
    `${transactionId(1)} is at its home ${payroll} and not on ${treasury}`,
    `${transactionId(3)} is on ${treasury} and not at its home ${payroll}`,
  ])
})

test('R2: a shard that the fleet has no more is not held against what it took part in', () => {
  const gone = 'us-west/treasury' as ShardName
  expect(findHalves(new Map([[payroll, { homes: [home(1, [gone])], branches: [] }]]))).toEqual([])
  expect(findHalves(new Map([[treasury, { homes: [], branches: [branch(1)] }]]))).toEqual([])
})

test('R12: shards are held against each other a stretch of ids at once, with no more than that of each', async () => {
  let most = 0
  /** `homes` and `branches` are the numbers of ids, in any order. */
  const reader = (homes: number[], branches: number[]): GlobalsReader => {
    const ids = [...homes, ...branches].map(transactionId).sort()
    return {
      read: (behind, through) => {
        const isHere = (id: string) => (behind === null || id > behind) && (through === null || id <= through)
        const found = {
          homes: homes.map((number) => home(number)).filter((one) => isHere(one.transactionId)),
          branches: branches.map(branch).filter((one) => isHere(one.transactionId)),
        }
        most = Math.max(most, found.homes.length + found.branches.length)
        return Promise.resolve(found)
      },
      findBehind: (behind, count) =>
        Promise.resolve(ids.filter((id) => behind === null || id > behind)[count - 1] ?? null),
    }
  }
  const numbers = Array.from({ length: 40 }, (_, index) => 40 - index)
  const shards = new Map([
    [
      payroll,
      reader(
        numbers.filter((number) => number !== 17),
        [],
      ),
    ],
    [treasury, reader([], numbers.filter((number) => number % 10 !== 0).concat(77))],
  ])
  const { count, names } = await findAllHalves(shards, 7)
  expect(most).toBe(7)
  expect(count).toBe(6)
  const five = ['10 is at', '17 is on', '20 is at', '30 is at', '40 is at']
  expect(names.map((name) => name.slice(34, 42)).toSorted()).toEqual(five)
})
