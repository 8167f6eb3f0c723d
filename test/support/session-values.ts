import fc from 'fast-check'
import type { Epoch, HistoryId, ShardName, TransactionId } from '../../src/directory/topology.ts'
import type { Hlc } from '../../src/hlc/hlc.ts'
import { toHlc } from '../../src/hlc/hlc.ts'
import type { Lsn } from '../../src/postgres/lsn.ts'
import { toLsn } from '../../src/postgres/lsn.ts'
import type { HistoryRow } from '../../src/session/fork-point.ts'
import type { Frontier, HistoryFrontier, PendingBranch } from '../../src/session/frontier.ts'
import { emptyFrontier, joinFrontiers } from '../../src/session/frontier.ts'
import type { NodeEvidence, Requirement } from '../../src/session/proof.ts'
import type { LsnBeforeSnapshot } from '../../src/session/session.ts'
import { lsnBeforeSnapshot } from '../../src/session/session.ts'

/** Small worlds for the tests of sessions: values by number, so that tests can name them. */

export const shardNames = [
  'eu-west/payroll',
  'us-east/treasury',
  'eu-central/payroll',
  'eu-central/ledger',
] as ShardName[]
export const [payroll, treasury] = ['eu-west/payroll', 'us-east/treasury'] as [ShardName, ShardName]

/** Version 7 UUIDs whose order is the order of their numbers. */
export function transaction(number: number): TransactionId {
  return `01967f00-0000-7000-8000-${number.toString(16).padStart(12, '0')}` as TransactionId
}

export function historyNumber(number: number): HistoryId {
  return `7a5c1e00-4b1d-4c3e-9f00-${number.toString(16).padStart(12, '0')}` as HistoryId
}

export const lsn = (value: number | bigint): Lsn => toLsn(BigInt(value))
export const hlc = (value: number | bigint): Hlc => toHlc(BigInt(value))
export const before = (value: number): LsnBeforeSnapshot =>
  lsnBeforeSnapshot({ lsn: lsn(value), readAt: 0, snapshotAt: 1 })

/** A demand on history number `epoch`, at that epoch. */
export function demand(epoch: number, position: number, more: Partial<HistoryFrontier> = {}): HistoryFrontier {
  return {
    historyId: historyNumber(epoch),
    epoch: epoch as Epoch,
    position: lsn(position),
    lastTransactionIds: [],
    idsSuffice: false,
    seenTimestamp: undefined,
    pending: [],
    pendingForgotten: false,
    ...more,
  }
}

export function frontierOn(shard: ShardName, histories: readonly HistoryFrontier[], timestamp = 1_000): Frontier {
  return {
    timestamp: hlc(timestamp),
    shards: new Map([[shard, { placementVersion: 1, histories, historiesForgotten: false }]]),
  }
}

export function branch(number: number, timestamp: number): PendingBranch {
  return { transactionId: transaction(number), timestamp: hlc(timestamp) }
}

/** The founding history, then one fork for each entry. */
export function historyLine(...forks: { at: number; leftOut?: TransactionId[] }[]): HistoryRow[] {
  const later = forks.map(({ at, leftOut }, index) => ({
    historyId: historyNumber(index + 2),
    epoch: (index + 2) as Epoch,
    fork: { parent: historyNumber(index + 1), lsn: lsn(at), leftOut: leftOut ?? [] },
  }))
  return [{ historyId: historyNumber(1), epoch: 1 as Epoch, fork: undefined }, ...later]
}

export function evidenceOf(more: Partial<NodeEvidence> = {}): NodeEvidence {
  return {
    isPrimary: false,
    histories: historyLine(),
    placementVersion: 1,
    replayedBefore: before(0),
    visible: new Set(),
    closedTimestamp: hlc(0),
    ...more,
  }
}

export function requirementOf(frontier: Frontier, more: Partial<Requirement> = {}): Requirement {
  return { level: 'session', frontier, shard: payroll, routedPlacementVersion: 1, ...more }
}

// Arbitrary frontiers. Numbers are small, so that two of them meet; a transaction has one commit timestamp.
const timestampOf = (number: number) => number * 10
const transactionNumber = fc.integer({ min: 1, max: 12 })
const ascending = (numbers: number[]) => numbers.toSorted((a, b) => a - b).map(transaction)

/** Room for epochs that a shard takes up within a history. */
const epochsApart = 10

const anyHistory: fc.Arbitrary<HistoryFrontier> = fc
  .record({
    number: fc.integer({ min: 1, max: 4 }),
    later: fc.integer({ min: 0, max: 2 }),
    position: fc.integer({ min: 0, max: 100 }),
    last: fc.uniqueArray(transactionNumber, { maxLength: 4 }),
    idsSuffice: fc.boolean(),
    seen: fc.option(fc.integer({ min: 0, max: 120 }), { nil: undefined }),
    pending: fc.uniqueArray(transactionNumber, { maxLength: 4 }),
    pendingForgotten: fc.boolean(),
  })
  .map(({ number, later, position, last, idsSuffice, seen, pending, pendingForgotten }) =>
    demand(number, position, {
      epoch: (number * epochsApart + later) as Epoch,
      lastTransactionIds: ascending(last),
      idsSuffice,
      seenTimestamp: seen === undefined ? undefined : hlc(seen),
      pending: pending.toSorted((a, b) => b - a).map((number) => branch(number, timestampOf(number))),
      pendingForgotten,
    }),
  )

export const anyFrontier: fc.Arbitrary<Frontier> = fc
  .array(
    fc.record({ shard: fc.constantFrom(...shardNames), history: anyHistory, version: fc.integer({ min: 1, max: 5 }) }),
    {
      maxLength: 6,
    },
  )
  .map((parts) =>
    parts
      .map(({ shard, history, version }) => {
        const shards = new Map([
          [shard, { placementVersion: version, histories: [history], historiesForgotten: false }],
        ])
        return { timestamp: hlc(1_000 + version), shards }
      })
      .reduce(joinFrontiers, emptyFrontier),
  )

/** Evidence over the same small numbers, often of a node that has much. */
export const anyEvidence: fc.Arbitrary<NodeEvidence> = fc
  .record({
    isPrimary: fc.boolean(),
    forks: fc.array(
      fc.record({ at: fc.integer({ min: 0, max: 100 }), leftOut: fc.uniqueArray(transactionNumber, { maxLength: 2 }) }),
      { maxLength: 3 },
    ),
    replayed: fc.oneof(fc.constant(120), fc.integer({ min: 0, max: 120 })),
    visible: fc.oneof(fc.constant(Array.from({ length: 12 }, (_, n) => n + 1)), fc.subarray([1, 2, 3, 4, 5, 6])),
    closed: fc.oneof(fc.constant(1_200), fc.integer({ min: 0, max: 1_200 })),
  })
  .map(({ isPrimary, forks, replayed, visible, closed }) =>
    evidenceOf({
      isPrimary,
      histories: historyLine(...forks.map(({ at, leftOut }) => ({ at, leftOut: leftOut.map(transaction) }))).map(
        (row) => ({ ...row, epoch: (row.epoch * epochsApart) as Epoch }),
      ),
      replayedBefore: before(replayed),
      visible: new Set(visible.map(transaction)),
      closedTimestamp: hlc(closed),
    }),
  )
