import { expect, test } from 'vitest'
import {
  branch,
  demand,
  frontierOn,
  hlc,
  historyNumber,
  lsn,
  payroll,
  transaction,
} from '../../test/support/session-values.ts'
import type { Epoch } from '../directory/topology.ts'
import { emptyFrontier } from './frontier.ts'
import type { ReadStep } from './session.ts'
import {
  advanceByBranch,
  advanceByCommit,
  advanceByRead,
  advanceByReading,
  forgetSettled,
  lsnAfterSnapshot,
  mustSettleFirst,
} from './session.ts'

const [w1, w2] = [transaction(1), transaction(2)]
const met = (epoch: number) => ({
  shard: payroll,
  historyId: historyNumber(epoch),
  epoch: epoch as Epoch,
  placementVersion: 1,
})
const commitStep = (number: number, flushed: number, epoch = 1) => ({
  ...met(epoch),
  transactionId: transaction(number),
  commitTimestamp: hlc(number * 10),
  flushedAfterCommit: lsn(flushed),
})
const branchStep = (number: number, flushed: number) => ({
  ...met(1),
  transactionId: transaction(number),
  commitTimestamp: hlc(number * 10),
  flushedAfterPrepare: lsn(flushed),
})
const readStep = (more: Partial<ReadStep> = {}): ReadStep => ({
  ...met(1),
  isPrimary: false,
  position: lsnAfterSnapshot({ lsn: lsn(200), readAt: 2, snapshotAt: 1 }),
  closedTimestamp: hlc(30),
  greatestTimestamp: hlc(40),
  ...more,
})
const onPayroll = (frontier: typeof emptyFrontier) => frontier.shards.get(payroll)?.histories

test('S3: a commit stands for everything the session had before it', () => {
  const first = advanceByCommit(emptyFrontier, commitStep(1, 100))
  const second = advanceByCommit(first, commitStep(2, 150))
  expect(onPayroll(second)).toEqual([demand(1, 150, { lastTransactionIds: [w2], idsSuffice: true })])
  expect(second.timestamp).toBe(hlc(20))
})

test('S3: a commit leaves earlier branches pending', () => {
  const first = advanceByBranch(emptyFrontier, branchStep(1, 90))
  const second = advanceByCommit(first, commitStep(2, 100))
  expect(onPayroll(second)?.[0]?.pending).toEqual([branch(1, 10)])
  expect(onPayroll(advanceByCommit(second, commitStep(1, 120)))?.[0]?.pending).toEqual([])
})

test('HZ-T5: every branch is listed, and beyond four the write path must settle first', () => {
  let frontier = emptyFrontier
  for (const number of [1, 2, 3, 4]) {
    expect(mustSettleFirst(frontier, payroll)).toBe(false)
    frontier = advanceByBranch(frontier, branchStep(number, number))
  }
  expect(mustSettleFirst(frontier, payroll)).toBe(true)
  expect(onPayroll(frontier)?.[0]?.pending).toEqual([branch(4, 40), branch(3, 30), branch(2, 20), branch(1, 10)])
})

test('what was read beside a write is covered by a position, and by no id', () => {
  const reading = { ...met(1), position: lsn(300) }
  expect(onPayroll(advanceByReading(emptyFrontier, reading))).toEqual([demand(1, 300, { idsSuffice: false })])
  const written = advanceByCommit(emptyFrontier, commitStep(1, 100))
  expect(onPayroll(advanceByReading(written, reading))).toEqual([
    demand(1, 300, { lastTransactionIds: [w1], idsSuffice: false }),
  ])
})

test('HZ-T5: room for a branch is made of those that were settled, and no id stands for the position then', () => {
  const full = [1, 2, 3, 4].reduce(
    (frontier, number) => advanceByBranch(frontier, branchStep(number, number)),
    emptyFrontier,
  )
  const next = advanceByBranch(forgetSettled(full, payroll), branchStep(5, 50))
  expect(onPayroll(next)).toEqual([demand(1, 50, { idsSuffice: false, pending: [branch(5, 50)] })])
  expect(forgetSettled(emptyFrontier, payroll)).toBe(emptyFrontier)
})

test('S7: after a read the last id no longer stands for the position', () => {
  const frontier = advanceByRead(advanceByCommit(emptyFrontier, commitStep(1, 100)), readStep())
  expect(onPayroll(frontier)).toEqual([
    demand(1, 200, { lastTransactionIds: [w1], idsSuffice: false, seenTimestamp: hlc(40) }),
  ])
  expect(frontier.timestamp).toBe(hlc(40))
})

test('S9: what a follower showed is carried only while it lies above the closed timestamp', () => {
  const seen = (more: Partial<ReadStep>, start = emptyFrontier) =>
    onPayroll(advanceByRead(start, readStep(more)))?.[0]?.seenTimestamp
  expect(seen({})).toBe(hlc(40))
  expect(seen({ closedTimestamp: hlc(40) })).toBeUndefined()
  expect(seen({ isPrimary: true })).toBeUndefined()
  const carrying = frontierOn(payroll, [demand(1, 10, { seenTimestamp: hlc(60) })])
  expect(seen({}, carrying)).toBe(hlc(60))
  expect(seen({ closedTimestamp: hlc(60) }, carrying)).toBeUndefined()
})

test('S11: a write after a fork keeps the demand on the older history until a read has proven it', () => {
  const old = advanceByCommit(emptyFrontier, commitStep(1, 900))
  const now = advanceByCommit(old, commitStep(2, 300, 2))
  expect(onPayroll(now)?.map((history) => history.epoch)).toEqual([2, 1])
  const read = advanceByRead(now, readStep(met(2)))
  expect(onPayroll(read)).toEqual([
    demand(2, 300, { lastTransactionIds: [w2], idsSuffice: false, seenTimestamp: hlc(40) }),
  ])
})

test('a proven read names one own transaction from then on, the newest', () => {
  const many = frontierOn(payroll, [
    demand(1, 10, { lastTransactionIds: [w1], idsSuffice: true, pending: [branch(3, 30), branch(2, 20)] }),
  ])
  expect(onPayroll(advanceByRead(many, readStep()))?.[0]?.lastTransactionIds).toEqual([transaction(3)])
})

test('HZ-T1: a position read before the snapshot is refused as a bound of what it shows', () => {
  const read = (readAt: number) => () => lsnAfterSnapshot({ lsn: lsn(1), readAt, snapshotAt: 1 })
  expect(read(1)).not.toThrow()
  expect(read(0)).toThrow(/comes before the snapshot/)
})
