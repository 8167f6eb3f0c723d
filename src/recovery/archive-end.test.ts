import { expect, test } from 'vitest'
import { branch, history, home, payroll, treasury, unattributed } from '../../test/support/redo-values.ts'
import { nameOf } from '../archive/redo-transaction.ts'
import type { Hlc } from '../hlc/hlc.ts'
import { boundOn, endOf } from './archive-end.ts'
import { planCut } from './cut.ts'
import type { ShardHistory } from './target.ts'

const began = 15n as Hlc
const first = home(1, 10n, [], [treasury])
const firstBranch = branch(1, 10n, [])

function keptOf(histories: readonly ShardHistory[]) {
  const bound = { kind: 'end', through: endOf(histories, began) } as const
  const { shards } = planCut(histories, { bound, excluded: new Set() })
  const kept = [...shards.values()].map(({ wanted }) => wanted.map(({ transaction }) => nameOf(transaction).slice(-2)))
  return { kept, bounds: histories.map(({ redo }) => boundOn(bound, redo)) }
}

test('R2: archives that go on while they are read end where all of them are closed: no branch is there without its home', () => {
  const histories = [
    history(payroll, [first], 20n),
    history(treasury, [firstBranch, branch(2, 25n, []), unattributed(25n, [])], 30n),
  ]
  const end = { kind: 'timestamp', timestamp: 20n }
  expect(keptOf(histories)).toEqual({ kept: [['01'], ['01']], bounds: [end, end] })
})

test('an archive that does not go on is wanted to its very end, and its log beyond the stream', () => {
  const lost = history(treasury, [firstBranch, branch(3, 14n, []), unattributed(14n, [])], 12n)
  const { kept, bounds } = keptOf([history(payroll, [first, home(2, 30n, [])], 20n), lost])
  expect(kept).toEqual([['01'], ['01', '03', '78']])
  expect(bounds).toEqual([
    { kind: 'timestamp', timestamp: 20n },
    { kind: 'end', through: 20n },
  ])
})

test('nothing is left out where every shard is lost', () => {
  const histories = [
    history(payroll, [first, home(4, 14n, [])], 12n),
    history(treasury, [firstBranch, unattributed(15n, [])], 15n),
  ]
  expect(keptOf(histories).kept.map((names) => names.length)).toEqual([2, 2])
})
