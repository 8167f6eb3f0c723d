import { describe, expect, test } from 'vitest'
import type { ShardName, TransactionId } from '../directory/topology.ts'
import type { RecordFacts, ShardFacts } from './collection.ts'
import { aimOf, judgeCollection } from './collection.ts'

const home = 'eu-west/payroll' as ShardName
const treasury = 'us-east/treasury' as ShardName
const cash = 'us-east/cash' as ShardName
const id = (bornMs: number) => `transaction ${bornMs}` as TransactionId

const record = (bornMs: number, outcome: RecordFacts['outcome'], participants = [treasury]): RecordFacts => ({
  transactionId: id(bornMs),
  bornMs,
  outcome,
  participants,
})

const seen = (visible: number[], prepared: number[] = []): ShardFacts => ({
  kind: 'seen',
  visible: new Set(visible.map(id)),
  prepared: prepared.map((bornMs) => ({ transactionId: id(bornMs), bornMs })),
})

const judge = (records: RecordFacts[], at: ShardFacts, others: [ShardName, ShardFacts][] = []) =>
  judgeCollection(aimOf(records, true) ?? 0, records, new Map([[home, seen([])], [treasury, at], ...others]))

const settled = [record(10, 'COMMITTED'), record(20, 'ABORTED'), record(30, 'COMMITTED')]

test('what is settled everywhere may go, and the watermark passes the last of it', () => {
  expect(judge(settled, seen([10, 30]))).toEqual({ throughMs: 31, collect: [id(10), id(20), id(30)], left: [] })
})

test('the last of a page that is not the last stays: the next may begin in the same millisecond', () => {
  expect(aimOf(settled, false)).toBe(30)
  expect(aimOf([], true)).toBeUndefined()
  expect(aimOf([record(30, 'ABORTED')], false)).toBe(30)
})

describe('nothing goes', () => {
  test.each(['no answer', 'its archive has not come this far'])(
    'K2, K4: while a shard has not been seen: %s',
    (why) => {
      const verdict = judge(settled, seen([10, 30]), [[cash, { kind: 'not seen', why }]])
      expect(verdict).toEqual({
        throughMs: undefined,
        collect: [],
        left: [{ why: `${cash}: ${why}`, needsPerson: false }],
      })
    },
  )
})

describe('the watermark stays at the birth', () => {
  test('K2: of a branch that is prepared anywhere, with a record or without', () => {
    expect(judge(settled, seen([10, 30], [20]))).toMatchObject({ throughMs: 20, collect: [id(10)] })
    const elsewhere = judge(settled, seen([10, 30]), [[cash, seen([], [15])]])
    expect(elsewhere).toMatchObject({ throughMs: 15, collect: [id(10)], left: [{ needsPerson: false }] })
  })

  test('K2: but not of a younger one', () => {
    expect(judge(settled, seen([10, 30], [31]))).toMatchObject({ throughMs: 31, left: [] })
  })

  test.each([
    ['COMMITTED and neither prepared nor visible', seen([10])],
    ['ABORTED and visible', seen([10, 20, 30])],
  ])('K3: of one that is %s, which is for a person', (_, at) => {
    const { left, throughMs } = judge(settled, at)
    expect(left).toEqual([{ why: expect.any(String), needsPerson: true }])
    expect(throughMs).toBe(_.startsWith('COMMITTED') ? 30 : 20)
  })

  test('K3: of one with a participant that the fleet does not have', () => {
    const records = [record(10, 'COMMITTED', [treasury, cash])]
    expect(judge(records, seen([10]))).toMatchObject({
      throughMs: undefined,
      collect: [],
      left: [{ needsPerson: true }],
    })
  })

  test('and of two in one millisecond, both stay', () => {
    const twins = [record(10, 'COMMITTED'), { ...record(10, 'COMMITTED'), transactionId: 'twin' as TransactionId }]
    expect(judge(twins, seen([10]))).toMatchObject({ throughMs: undefined, collect: [] })
  })
})
