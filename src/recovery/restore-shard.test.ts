import { describe, expect, test } from 'vitest'
import type { Lsn } from '../postgres/lsn.ts'
import { hasReached } from './restore-shard.ts'

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
