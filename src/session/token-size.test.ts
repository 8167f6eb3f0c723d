import { describe, expect, test } from 'vitest'
import { demand, shardNames, transaction } from '../../test/support/session-values.ts'
import type { Epoch, HistoryId, ShardName, TenantName, TransactionId } from '../directory/topology.ts'
import type { Hlc } from '../hlc/hlc.ts'
import { hlcFromWallMs, ticksPerMs, toHlc } from '../hlc/hlc.ts'
import { parseLsn } from '../postgres/lsn.ts'
import type { Frontier, HistoryFrontier } from './frontier.ts'
import { joinFrontiers, withoutNames } from './frontier.ts'
import { shardsByRef } from './shard-refs.ts'
import { decodeToken, encodeToken, requireRoomToGrow } from './token.ts'

/**
 * The budget of a token: under 300 bytes for four shards. The values are those of a fleet that has run for a while:
 * real names, a position of some terabytes of log, a placement that has moved, commit timestamps of this year.
 */
const nowMs = Date.UTC(2026, 3, 2, 10, 0, 5)
const now = toHlc(hlcFromWallMs(nowMs) + 3n)
const secondsAgo = (seconds: number): Hlc => toHlc(now - BigInt(seconds) * 1000n * ticksPerMs)
const ring = { current: 1, keys: new Map([[1, new Uint8Array(32).fill(1)]]) }
const scope = { fleet: 'payledger', tenant: 'globex-eu' as TenantName, credential: 'manager@globex.example' }

function sizeOf(of: (shard: number) => Partial<HistoryFrontier>, histories = 1): { bytes: number; text: number } {
  const frontiers = Array.from({ length: histories }, (_, older): Frontier => {
    const shards = shardNames.map((name, index) => {
      const history = {
        ...demand(1, 0, of(index + older * 4)),
        position: parseLsn('6E0/B374D848'),
        epoch: (17 - older) as Epoch,
        historyId: `7a5c1e00-4b1d-4c3e-9f0${older}-00000000000${index}` as HistoryId,
      }
      return [name, { placementVersion: 31, histories: [history], historiesForgotten: false }] as const
    })
    return { timestamp: now, shards: new Map(shards) }
  })
  const text = encodeToken(frontiers.reduce(joinFrontiers), ring, scope, { nowMs, lifetimeMs: 86_400_000 })
  return { bytes: Buffer.from(text, 'base64url').length, text: text.length }
}

const wrote = (...ids: TransactionId[]): Partial<HistoryFrontier> => ({ lastTransactionIds: ids, idsSuffice: true })
const pending = (...numbers: number[]) =>
  numbers.map((number) => ({ transactionId: transaction(number), timestamp: secondsAgo(number) }))

describe('four shards in less than 300 characters', () => {
  test('after one global transaction over all of them, unsettled on three', () => {
    const size = sizeOf((shard) => (shard === 0 ? wrote(transaction(0)) : { idsSuffice: true, pending: pending(0) }))
    expect(size).toEqual({ bytes: 210, text: 280 })
  })

  test('when each was only read, a moment ago, from a follower', () => {
    expect(sizeOf(() => ({ seenTimestamp: secondsAgo(1) }))).toEqual({ bytes: 207, text: 276 })
  })

  test('when two transactions wrote them', () => {
    expect(sizeOf((shard) => wrote(transaction(shard % 2)))).toEqual({ bytes: 223, text: 298 })
  })
})

describe('four shards in less than 300 bytes', () => {
  test('when four transactions wrote them', () => {
    expect(sizeOf((shard) => wrote(transaction(shard)))).toEqual({ bytes: 255, text: 340 })
  })

  test('when four global transactions are unsettled on each of the three participants', () => {
    const size = sizeOf((shard) =>
      shard === 0 ? wrote(transaction(1)) : { idsSuffice: true, pending: pending(1, 2, 3, 4) },
    )
    expect(size).toEqual({ bytes: 286, text: 382 })
  })
})

/** The worst that one session can hold of one shard. */
const everyName = (shard: number): Partial<HistoryFrontier> => ({
  ...wrote(transaction(shard * 8)),
  pending: pending(...[1, 2, 3, 4].map((n) => n + shard * 8)),
})

function over(shards: number, named = everyName): Frontier {
  const entry = (shard: number) => {
    const history = {
      ...demand(1, 7, named(shard)),
      historyId: `7a5c1e00-4b1d-4c3e-9f00-${String(shard).padStart(12, '0')}` as HistoryId,
    }
    return [
      `eu-west/s${shard}` as ShardName,
      { placementVersion: 31, histories: [history], historiesForgotten: false },
    ] as const
  }
  return { timestamp: now, shards: new Map(Array.from({ length: shards }, (_, shard) => entry(shard))) }
}

describe('a session over many shards', () => {
  const issue = { nowMs, lifetimeMs: 86_400_000 }
  const sign = (shards: number) => encodeToken(over(shards), ring, scope, issue)
  const decode = (text: string, shards: number) =>
    decodeToken(text, ring, scope, { nowMs, maxClockOffsetMs: 500, shards: shardsByRef(over(shards).shards.keys()) })

  test('S11: loses the names of its transactions before it loses its token, and demands as much', () => {
    expect(decode(sign(40), 40)).toEqual(over(40))
    expect(decode(sign(100), 100)).toEqual(withoutNames(over(100)))
  })

  test('names a transaction once, on however many of them it was', () => {
    const together = over(40, () => ({ ...wrote(transaction(1)), pending: pending(1, 2) }))
    const text = encodeToken(together, ring, scope, issue)
    expect(decode(text, 40)).toEqual(together)
    const unnamed = encodeToken(withoutNames(together), ring, scope, issue)
    // Two ids and their timestamps, and three indexes in each row, which has its flags in a byte less.
    expect(Buffer.from(text, 'base64url').length - Buffer.from(unnamed, 'base64url').length).toBe(124)
  })

  test('is refused before it is used for what could not be told afterwards', () => {
    expect(() => requireRoomToGrow(over(100), ring, scope, issue)).not.toThrow()
    const nearlyFull = Array.from({ length: 300 }, (_, n) => n + 100).findLast((shards) => {
      try {
        return sign(shards) !== undefined
      } catch {
        return false
      }
    })
    expect(() => requireRoomToGrow(over(nearlyFull ?? 0), ring, scope, issue)).toThrow(/does not fit into a token/)
    expect(() => sign(400)).toThrow(/a session over 400 shards does not fit into a token/)
  })
})

describe('what does not fit the budget is still a token', () => {
  test('the worst that one session can hold: four unsettled transactions of its own on each of four shards', () => {
    const size = sizeOf((shard) => ({
      ...wrote(transaction(90 + shard)),
      pending: pending(...[1, 2, 3, 4].map((n) => n + shard * 4)),
    }))
    expect(size).toEqual({ bytes: 610, text: 814 })
  })

  test('the worst that a join can make: every list full, over two histories of every shard', () => {
    const numbers = (shard: number, from: number) => [0, 1, 2, 3].map((n) => from + shard * 4 + n)
    const size = sizeOf(
      (shard) => ({
        lastTransactionIds: numbers(shard, 100).map(transaction),
        seenTimestamp: secondsAgo(3600),
        pending: pending(...numbers(shard, 200)),
        pendingForgotten: true,
      }),
      2,
    )
    expect(size).toEqual({ bytes: 1819, text: 2426 })
  })
})
