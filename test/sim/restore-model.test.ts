import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { RedoTransaction, RowImage } from '../../src/archive/redo-transaction.ts'
import { nameOf } from '../../src/archive/redo-transaction.ts'
import { isHoldfastError } from '../../src/base/errors.ts'
import type { ShardName, TransactionId } from '../../src/directory/topology.ts'
import type { Hlc } from '../../src/hlc/hlc.ts'
import type { Lsn } from '../../src/postgres/lsn.ts'
import type { Cut, Stop } from '../../src/recovery/cut.ts'
import { absentBehind, chooseStop, committedBehind, decideBranch, planCut } from '../../src/recovery/cut.ts'
import { closeExclusion, requireAccepted } from '../../src/recovery/exclusion.ts'
import type { Bound } from '../../src/recovery/position.ts'
import { comparePositions, isWithin, positionOf } from '../../src/recovery/position.ts'
import { closedInAllArchives, requireReachable } from '../../src/recovery/target.ts'
import type { WrittenHistory } from '../support/redo-values.ts'
import type { LogRecord, Move } from './fleet-history.ts'
import { FleetHistory } from './fleet-history.ts'
import { applyChange, requireReferences, shapes } from './fleet-rows.ts'

const move: fc.Arbitrary<Move> = fc.record({
  do: fc.constantFrom('local', 'global', 'global', 'unattributed', 'advance', 'advance', 'advance', 'gossip'),
  shard: fc.nat(7),
  other: fc.nat(31),
  rows: fc.array(fc.nat(100_000), { minLength: 1, maxLength: 5 }),
  abort: fc.boolean(),
})
const moves = fc.array(move, { minLength: 5, maxLength: 120, size: 'max' })
const moments = fc.array(fc.integer({ min: -1, max: 80 }), { minLength: 3, maxLength: 3 })
const runs = { numRuns: 1_500 }

interface Restored {
  readonly rows: Map<string, RowImage>
  readonly names: Set<string>
  readonly prepared: Map<TransactionId, LogRecord>
  /** Decisions to commit that stand at home. */
  readonly records: Map<TransactionId, Hlc>
}

function nothing(): Restored {
  return { rows: new Map(), names: new Set(), prepared: new Map(), records: new Map() }
}

/** What PostgreSQL does: replay to the stop. */
function replay(log: readonly LogRecord[], stop: Stop): Restored {
  const restored = nothing()
  for (const record of log) {
    if (stop.kind === 'before' ? record.lsn >= stop.lsn : record.lsn > stop.lsn) break
    const id = record.transactionId
    if (record.kind === 'prepare' && id !== null) restored.prepared.set(id, record)
    else if (id !== null) restored.prepared.delete(id)
    if (record.redo !== null) apply(restored, record.redo, record.changes)
  }
  return restored
}

function apply(restored: Restored, redo: RedoTransaction, changes: LogRecord['changes']): void {
  for (const change of changes) applyChange(restored.rows, change)
  if (redo.identity.kind !== 'platform') restored.names.add(nameOf(redo))
  if (redo.identity.kind === 'home') restored.records.set(redo.identity.transactionId, redo.identity.commitTimestamp)
}

/** What `restore` does around it: cut, physical replay, decide, redo. */
async function restore(
  fleet: FleetHistory,
  histories: readonly WrittenHistory[],
  cut: Cut,
  logMoments: readonly number[],
): Promise<Map<ShardName, Restored>> {
  const result = new Map<ShardName, Restored>()
  const stops = new Map<ShardName, Stop>()
  for (const [index, { shard, redo }] of histories.entries()) {
    const { log } = fleet.shards.find(({ name }) => name === shard) ?? { log: [] }
    // The log may be archived further than the redo stream, or not as far.
    const { lsn: through } = fleet.archivedAt(index, logMoments[index] ?? -1)
    const reached = log.filter(({ lsn }) => lsn < through).at(-1)
    const audit = {
      from: 0n as Lsn,
      contiguousThrough: through,
      lastRecord: reached?.lsn ?? (0n as Lsn),
      gaps: [],
      checksumFailures: [],
    }
    const one = cut.shards.get(shard)
    if (one === undefined) continue
    stops.set(shard, chooseStop(cut.wanted.bound, one, redo.lsn, audit))
    result.set(shard, replay(log, stops.get(shard) ?? { kind: 'before', lsn: 0n as Lsn }))
  }
  const records = new Map([...result.values()].flatMap((restored) => [...restored.records]))
  const ids = new Set([...result.values()].flatMap((restored) => [...restored.prepared.keys()]))
  const committed = new Map<TransactionId, Hlc>()
  for (const history of histories) {
    const stop = stops.get(history.shard)
    if (stop === undefined) continue
    for (const [id, timestamp] of await committedBehind(stop, history, cut.wanted, ids)) committed.set(id, timestamp)
  }
  for (const history of histories) {
    const restored = result.get(history.shard)
    const stop = stops.get(history.shard)
    if (restored === undefined || stop === undefined) continue
    for (const [id, record] of restored.prepared) {
      if (decideBranch(id, committed, records) === null) continue
      for (const change of record.changes) applyChange(restored.rows, change)
      restored.names.add(id)
    }
    restored.prepared.clear()
    for await (const { transaction, changes } of absentBehind(stop, history, cut.wanted)) {
      if (!restored.names.has(nameOf(transaction))) apply(restored, transaction, changes)
    }
  }
  return result
}

/** The truth: the wanted commits one after the other, in the order of their positions. */
function truth(history: WrittenHistory, isWanted: (transaction: RedoTransaction) => boolean): Restored {
  const restored = nothing()
  const wanted = history.transactions.filter((one) => one.identity.kind !== 'platform' && isWanted(one))
  for (const one of wanted.toSorted((a, b) => comparePositions(positionOf(a), positionOf(b)))) {
    apply(restored, one, one.changes)
  }
  return restored
}

function applicationRows(rows: ReadonlyMap<string, RowImage>): Record<string, RowImage> {
  return Object.fromEntries([...rows].filter(([key]) => !key.startsWith('holdfast.')))
}

function expectSame(result: ReadonlyMap<ShardName, Restored>, expected: ReadonlyMap<ShardName, Restored>): void {
  for (const [shard, { rows, names }] of expected) {
    expect(applicationRows(result.get(shard)?.rows ?? new Map())).toEqual(applicationRows(rows))
    expect([...(result.get(shard)?.names ?? [])].sort()).toEqual([...names].sort())
    for (const [key, decision] of result.get(shard)?.rows ?? []) {
      if (key.startsWith('holdfast.decision') && decision['outcome'] === 'COMMITTED') {
        expect(names).toContain(decision['transaction_id'])
      }
    }
  }
}

function boundOf(histories: readonly WrittenHistory[], choice: number): Bound {
  const positions = histories.flatMap(({ transactions }) =>
    transactions.filter(({ identity }) => identity.kind !== 'platform').map(positionOf),
  )
  const position = positions[choice % Math.max(1, positions.length)]
  if (position === undefined || choice % 5 === 0) return throughOf(histories)
  if (choice % 5 === 1) return { kind: 'timestamp', timestamp: position.timestamp }
  return { kind: 'position', position, inclusive: choice % 2 === 0 }
}

function throughOf(histories: readonly WrittenHistory[]): Bound {
  return { kind: 'timestamp', timestamp: closedInAllArchives(histories).timestamp }
}

function isReachable(bound: Bound, histories: readonly WrittenHistory[]): boolean {
  try {
    requireReachable(bound, histories)
    return true
  } catch (error) {
    if (isHoldfastError(error, 'restore_unreachable')) return false
    throw error
  }
}

describe('restore against a model in memory', () => {
  test('R1 R2 R3: cut, decide and redo give exactly the prefix of history, for every target that is reachable', async () => {
    let reached = 0
    await fc.assert(
      fc.asyncProperty(moves, moments, moments, fc.nat(1_000), async (script, archived, logged, choice) => {
        const fleet = new FleetHistory(3)
        fleet.play(script)
        const histories = fleet.histories(archived)
        const bound = boundOf(histories, choice)
        if (!isReachable(bound, histories)) return
        reached++
        const result = await restore(fleet, histories, await planCut(histories, { bound, excluded: new Map() }), logged)
        expectSame(
          result,
          new Map(histories.map((one) => [one.shard, truth(one, (commit) => isWithin(bound, positionOf(commit)))])),
        )
      }),
      runs,
    )
    expect(reached).toBeGreaterThan(runs.numRuns / 4)
  })

  test('R2: a reachable prefix has both sides of a global transaction or neither', async () => {
    await fc.assert(
      fc.asyncProperty(moves, moments, moments, fc.nat(1_000), async (script, archived, logged, choice) => {
        const fleet = new FleetHistory(3)
        fleet.play(script)
        const histories = fleet.histories(archived)
        const bound = boundOf(histories, choice)
        if (!isReachable(bound, histories)) return
        const result = await restore(fleet, histories, await planCut(histories, { bound, excluded: new Map() }), logged)
        for (const { identity } of histories.flatMap(({ transactions }) => transactions)) {
          if (identity.kind !== 'home') continue
          const sides = [...result].filter(([, { names }]) => names.has(identity.transactionId)).length
          expect([0, 1 + identity.participants.length]).toContain(sides)
        }
      }),
      runs,
    )
  })

  test('HZ-X10: at the end of ragged archives, a prepared branch is committed when any archive shows the decision', async () => {
    let decided = 0
    await fc.assert(
      fc.asyncProperty(moves, moments, moments, async (script, archived, logged) => {
        const fleet = new FleetHistory(3)
        fleet.play(script)
        const histories = fleet.histories(archived)
        const result = await restore(
          fleet,
          histories,
          await planCut(histories, { bound: { kind: 'end' }, excluded: new Map() }),
          logged,
        )
        const atHome = new Set([...result.values()].flatMap(({ records }) => [...records.keys()]))
        for (const [index, shard] of fleet.shards.entries()) {
          const through = fleet.archivedAt(index, logged[index] ?? -1).lsn
          for (const { kind, lsn, transactionId } of shard.log) {
            if (kind !== 'prepare' || lsn >= through || transactionId === null || !atHome.has(transactionId)) continue
            decided++
            expect(result.get(shard.name)?.names).toContain(transactionId)
          }
        }
      }),
      runs,
    )
    expect(decided).toBeGreaterThan(100)
  })

  test('R5: replay without some transactions is history without them and what depends on them, and nothing is overwritten', async () => {
    let dragging = 0
    await fc.assert(
      fc.asyncProperty(
        moves,
        moments,
        moments,
        fc.array(fc.nat(1_000), { minLength: 1, maxLength: 3 }),
        async (script, archived, logged, picks) => {
          const fleet = new FleetHistory(3)
          fleet.play(script)
          const histories = fleet.histories(archived)
          const bound = throughOf(histories)
          const names = histories.flatMap(({ transactions }) =>
            transactions
              .filter((one) => one.identity.kind !== 'platform' && isWithin(bound, positionOf(one)))
              .map(nameOf),
          )
          const asked = [...new Set(picks.flatMap((pick) => names[pick % names.length] ?? []))]
          if (asked.length === 0) return
          const shapesOf = new Map(histories.map(({ shard }) => [shard, shapes]))
          const exclusion = await closeExclusion(histories, shapesOf, asked, bound)
          const wanted = { bound, excluded: exclusion.closure }
          const isKept = (one: RedoTransaction) =>
            isWithin(bound, positionOf(one)) && !exclusion.closure.has(nameOf(one))
          expectSame(
            await restore(fleet, histories, await planCut(histories, wanted), logged),
            new Map(histories.map((one) => [one.shard, truth(one, isKept)])),
          )
          for (const { transactions } of histories) replayWithReferences(transactions.filter(isKept))
          if (exclusion.dragged.length > 0) {
            dragging++
            expect(() => requireAccepted(exclusion)).toThrow('depend on what is left out')
            // Naming what was dragged is the acceptance: then nothing more is.
            expect((await closeExclusion(histories, shapesOf, [...exclusion.closure.keys()], bound)).dragged).toEqual(
              [],
            )
          }
        },
      ),
      runs,
    )
    expect(dragging).toBeGreaterThan(50)
  })

  test('R5: nothing is dragged that could have stayed: replay without the asked ones alone fails', async () => {
    await fc.assert(
      fc.asyncProperty(moves, fc.nat(1_000), async (script, pick) => {
        const fleet = new FleetHistory(2)
        fleet.play(script)
        fleet.drain()
        const histories = fleet.histories([-1, -1])
        const bound: Bound = { kind: 'end' }
        const commits = histories.flatMap(({ transactions }) =>
          transactions.filter(({ identity }) => identity.kind !== 'platform'),
        )
        const one = commits[pick % Math.max(1, commits.length)]
        if (one === undefined) return
        const shapesOf = new Map(histories.map(({ shard }) => [shard, shapes]))
        const { dragged } = await closeExclusion(histories, shapesOf, [nameOf(one)], bound)
        const naive = () => {
          for (const { transactions } of histories) {
            replayWithReferences(transactions.filter((other) => nameOf(other) !== nameOf(one)))
          }
        }
        if (dragged.length === 0) naive()
        else expect(naive).toThrow(/is not as it was|refers to nothing/)
      }),
      runs,
    )
  })
})

/** In commit order, each onto the rows as they were, with the foreign keys holding after each. */
function replayWithReferences(transactions: readonly RedoTransaction[]): void {
  const rows = new Map<string, RowImage>()
  for (const { identity, changes } of transactions) {
    if (identity.kind === 'platform') continue
    for (const change of changes) applyChange(rows, change)
    requireReferences(rows)
  }
}
