import { describe, expect, test } from 'vitest'
import { history, home, payroll, transactionId, unattributed } from '../../test/support/redo-values.ts'
import { present } from '../base/assert.ts'
import type { Hlc } from '../hlc/hlc.ts'
import type { Lsn } from '../postgres/lsn.ts'
import { compareTransactions } from './checks.ts'
import { planCut } from './cut.ts'
import { hasReached } from './restore-shard.ts'

const { transactions, ...rest } = history(payroll, [
  home(1, 10n, []),
  unattributed(10n, []),
  home(2, 20n, []),
  home(3, 30n, []),
])
const bound = { kind: 'timestamp', timestamp: 20n as Hlc } as const
const cut = present(
  planCut([{ transactions, ...rest }], { bound, excluded: new Set() }).shards.get(payroll),
  'the shard is cut',
)
const stop = { kind: 'before', lsn: 130n as Lsn } as const
const restored = (...numbers: [number, bigint | null][]) =>
  numbers.map(([number, stamp]) => ({ transactionId: transactionId(number), commitTimestamp: stamp as Hlc | null }))
const compare = (...numbers: [number, bigint | null][]) =>
  compareTransactions({ cut, stop, transactions, redo: rest.redo }, { bound }, restored(...numbers))

describe('R2: the restored ids against the archive', () => {
  test('are the wanted ones', () => {
    expect(compare([1, 10n], [2, 20n])).toEqual({ missing: [], unexpected: [] })
  })

  test('one that is missing, and one that was left out, are told', () => {
    expect(compare([2, 20n], [3, 30n])).toEqual({ missing: [transactionId(1)], unexpected: [transactionId(3)] })
  })

  test('one from before the stream is no surprise, one that the stream should have is', () => {
    expect(compare([1, 10n], [2, 20n], [8, 5n])).toEqual({ missing: [], unexpected: [] })
    expect(compare([1, 10n], [2, 20n], [8, 15n], [9, null]).unexpected).toEqual([transactionId(8), transactionId(9)])
  })

  test('one from before the stream may have a higher stamp than the first in it, up to the clock where the stream begins', () => {
    const redo = { ...rest.redo, clockAtFrom: 15n as Hlc }
    const ids = restored([1, 10n], [2, 20n], [8, 15n], [9, 16n])
    const { missing, unexpected } = compareTransactions({ cut, stop, transactions, redo }, { bound }, ids)
    expect({ missing, unexpected }).toEqual({ missing: [], unexpected: [transactionId(9)] })
  })
})

describe('R1: the position where the replay is paused', () => {
  test.each([
    ['before', 1_000n, true],
    ['before', 960n, true],
    ['before', 959n, false],
    ['before', 1_001n, false],
    ['after', 1_000n, false],
    ['after', 1_100n, true],
  ] as const)('a stop %s the record at 1000 is reached at %s: %s', (kind, replayed, expected) => {
    expect(hasReached({ kind, lsn: 1_000n as Lsn, through: 1_100n as Lsn }, replayed)).toBe(expected)
  })
})
