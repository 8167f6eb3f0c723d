import { expect, test } from 'vitest'
import { payroll, transactionId, treasury } from '../../test/support/redo-values.ts'
import type { ShardName } from '../directory/topology.ts'
import { findHalves } from './wholeness.ts'

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
