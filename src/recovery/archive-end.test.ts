import { expect, test } from 'vitest'
import type { WrittenHistory } from '../../test/support/redo-values.ts'
import { branch, collected, history, home, payroll, treasury, unattributed } from '../../test/support/redo-values.ts'
import { nameOf } from '../archive/redo-transaction.ts'
import type { Hlc } from '../hlc/hlc.ts'
import type { Lsn } from '../postgres/lsn.ts'
import { boundOn, endOf } from './archive-end.ts'
import { absentBehind } from './cut.ts'

const began = 15n as Hlc
const first = home(1, 10n, [], [treasury])
const firstBranch = branch(1, 10n, [])

const beginning = { kind: 'before', lsn: 0n as Lsn } as const

async function keptOf(histories: readonly WrittenHistory[]) {
  const bound = { kind: 'end', through: endOf(histories, began) } as const
  const kept = histories.map(async (one) => {
    const steps = await collected(absentBehind(beginning, one, { bound, excluded: new Map() }))
    return steps.map(({ transaction }) => nameOf(transaction).slice(-2))
  })
  return { kept: await Promise.all(kept), bounds: histories.map(({ redo }) => boundOn(bound, redo)) }
}

test('R2: archives that go on while they are read end where all of them are closed: no branch is there without its home', async () => {
  const histories = [
    history(payroll, [first], 20n),
    history(treasury, [firstBranch, branch(2, 25n, []), unattributed(25n, [])], 30n),
  ]
  const end = { kind: 'timestamp', timestamp: 20n }
  expect(await keptOf(histories)).toEqual({ kept: [['01'], ['01']], bounds: [end, end] })
})

test('an archive that does not go on is wanted to its very end, and its log beyond the stream', async () => {
  const lost = history(treasury, [firstBranch, branch(3, 14n, []), unattributed(14n, [])], 12n)
  const { kept, bounds } = await keptOf([history(payroll, [first, home(2, 30n, [])], 20n), lost])
  expect(kept).toEqual([['01'], ['01', '03', '78']])
  expect(bounds).toEqual([
    { kind: 'timestamp', timestamp: 20n },
    { kind: 'end', through: 20n },
  ])
})

test('nothing is left out where every shard is lost', async () => {
  const histories = [
    history(payroll, [first, home(4, 14n, [])], 12n),
    history(treasury, [firstBranch, unattributed(15n, [])], 15n),
  ]
  expect((await keptOf(histories)).kept.map((names) => names.length)).toEqual([2, 2])
})
