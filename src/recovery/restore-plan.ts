import type { ShardArchive } from '../archive/archive.ts'
import type { BaseBackupEntry } from '../archive/base-backups.ts'
import type { RedoThrough, RedoTransaction } from '../archive/redo-transaction.ts'
import type { TimelineHistory } from '../archive/timeline.ts'
import { present } from '../base/assert.ts'
import type { Clock } from '../base/clock.ts'
import { HoldfastError } from '../base/errors.ts'
import type { ShardName } from '../directory/topology.ts'
import type { Hlc } from '../hlc/hlc.ts'
import { formatLsn } from '../postgres/lsn.ts'
import { boundOn, endOf, waitGoingOn } from './archive-end.ts'
import type { Cut, RedoStep, ShardCut, Stop } from './cut.ts'
import { absentBehind, chooseBackup, chooseStop, planCut } from './cut.ts'
import type { Exclusion } from './exclusion.ts'
import { closeExclusion } from './exclusion.ts'
import type { Bound } from './position.ts'
import { highestOf, isWithin, positionOf } from './position.ts'
import type { Shapes } from './row-key.ts'
import type { RecoveryTarget, ShardHistory, TransactionName } from './target.ts'
import { closedInAllArchives, findTransaction, requireReachable, resolveTarget } from './target.ts'

export interface RestoreRequest {
  readonly target: RecoveryTarget
  /** Replay everything behind the target except these. What depends on them must be named too. */
  readonly without: readonly TransactionName[]
  readonly isDrill?: boolean
}

/** What the archives say at one moment: the frozen timeline that a restore is planned over. */
export interface Frozen {
  readonly histories: readonly ShardHistory[]
  readonly shapes: ReadonlyMap<ShardName, Shapes>
  readonly timelines: ReadonlyMap<ShardName, TimelineHistory>
  /** Where a restore to the end ends. */
  readonly end?: Hlc
}

/** Which history an environment is to have. */
export interface HistoryPlan {
  /** Up to where it goes: the target, or with `without` as far as all archives hold it. */
  readonly bound: Bound
  readonly exclusion: Exclusion | null
  readonly cut: Cut
  readonly shards: ReadonlyMap<ShardName, ShardHistoryPlan>
  /** Past every timestamp that the fleet has shown: the restored clocks go on from here. */
  readonly clock: Hlc
}

export interface ShardHistoryPlan {
  readonly shard: ShardName
  readonly stop: Stop
  readonly cut: ShardCut
  readonly absent: readonly RedoStep[]
  readonly shapes: Shapes
  /** Everything the stream has, for sequences and for the comparison of ids. */
  readonly transactions: readonly RedoTransaction[]
  /** How far the stream goes, and since where it has no hole. */
  readonly redo: RedoThrough
}

/** A history, and the way to it from the archives. */
export interface RestorePlan extends HistoryPlan {
  readonly request: RestoreRequest
  readonly shards: ReadonlyMap<ShardName, ShardPlan>
  /** Up to where all archives held every commit when the plan was made. */
  readonly reachable: Hlc
}

export interface ShardPlan extends ShardHistoryPlan {
  readonly timeline: TimelineHistory
  readonly backup: BaseBackupEntry
}

export async function freeze(archives: ReadonlyMap<ShardName, ShardArchive>): Promise<Frozen> {
  const histories: ShardHistory[] = []
  const shapes = new Map<ShardName, Shapes>()
  const timelines = new Map<ShardName, TimelineHistory>()
  for (const [shard, archive] of archives) {
    const history = await archive.timelineHistory()
    const redo = await archive.redoThrough(history)
    if (redo === undefined) {
      throw new HoldfastError('restore_unreachable', `the redo stream of ${shard} is empty`, { detail: { shard } })
    }
    const transactions: RedoTransaction[] = []
    for await (const transaction of archive.readRedo({ history, to: redo.lsn })) transactions.push(transaction)
    histories.push({ shard, transactions, redo })
    shapes.set(shard, await archive.relationShapes({ history, at: redo.lsn }))
    timelines.set(shard, history)
  }
  return { histories, shapes, timelines }
}

/** For a restore, which begins while the fleet goes on. */
export async function freezeFor(
  { target }: RestoreRequest,
  archives: ReadonlyMap<ShardName, ShardArchive>,
  clock: Clock,
): Promise<Frozen> {
  if (target.kind !== 'end') return freeze(archives)
  const began = await waitGoingOn(archives, clock)
  const frozen = await freeze(archives)
  return { ...frozen, end: endOf(frozen.histories, began) }
}

/** What would go, before anything is done: the dry run of a replay without. */
export function planExclusion(frozen: Frozen, { target, without }: RestoreRequest): Exclusion | null {
  if (without.length === 0) return null
  const { histories, shapes } = frozen
  // What is lost with a shard lies above all that its archive is closed at, and so do the other parts of it.
  if (target.kind === 'end') return closeExclusion(histories, shapes, without, endBound(frozen))
  const behind = resolveTarget(target, histories)
  for (const name of without) {
    const [found] = findTransaction(name, histories)
    if (!isWithin(behind, positionOf(found))) continue
    throw new HoldfastError('argument_invalid', `transaction ${name} lies before the target`, {
      hint: 'choose the first transaction to be left out as the target',
      detail: { transaction: name },
    })
  }
  return closeExclusion(histories, shapes, without, throughOf(histories))
}

/** Throws `restore_unreachable`, `archive_gap`, `unknown_transaction`, `argument_invalid`. Reads archives only. */
export async function planRestore(
  archives: ReadonlyMap<ShardName, ShardArchive>,
  frozen: Frozen,
  request: RestoreRequest,
): Promise<RestorePlan> {
  const { histories, timelines } = frozen
  const exclusion = planExclusion(frozen, request)
  const bound = boundFor(frozen, request)
  requireReachable(bound, histories)
  const cut = planCut(histories, { bound, excluded: exclusion?.closure ?? new Set() })
  const shards = new Map<ShardName, ShardPlan>()
  for (const { shard, redo } of histories) {
    const archive = present(archives.get(shard), 'a history comes from an archive')
    const timeline = present(timelines.get(shard), 'a frozen shard has its timeline')
    const one = present(cut.shards.get(shard), 'every shard is cut')
    const here = boundOn(bound, redo)
    const limit = one.limit ?? (here.kind === 'end' ? null : redo.lsn)
    const backup = chooseBackup(shard, await archive.listBaseBackups(), timeline, limit)
    const audit = await archive.auditWal({ history: timeline, from: backup.startLsn }, 'names')
    const stop = chooseStop(here, one, redo.lsn, audit)
    shards.set(shard, { ...planShard(frozen, cut, shard, stop), timeline, backup })
  }
  const { timestamp: reachable } = closedInAllArchives(histories)
  return { request, bound, exclusion, cut, shards, reachable, clock: highestOf(histories) }
}

/**
 * The history of an environment that was restored before, over what the archives hold by now. With `without` that is all of
 * it but what was left out; else what the target says. `stops` are those of the environment.
 */
export function planCatchUp(
  frozen: Frozen,
  { target, without }: RestoreRequest,
  stops: ReadonlyMap<ShardName, Stop>,
): HistoryPlan {
  const { histories, shapes } = frozen
  const bound = without.length === 0 ? resolveTarget(target, histories) : ({ kind: 'end' } as const)
  const exclusion = without.length === 0 ? null : closeExclusion(histories, shapes, without, bound)
  const cut = planCut(histories, { bound, excluded: exclusion?.closure ?? new Set() })
  const shards = new Map([...stops].map(([shard, stop]) => [shard, planShard(frozen, cut, shard, stop)]))
  return { bound, exclusion, cut, shards, clock: highestOf(histories) }
}

function planShard({ histories, shapes }: Frozen, cut: Cut, shard: ShardName, stop: Stop): ShardHistoryPlan {
  const { transactions, redo } = present(
    histories.find((history) => history.shard === shard),
    'every shard was frozen',
  )
  const reached = stop.kind === 'before' ? stop.lsn : stop.through
  if (reached < redo.from) {
    throw new HoldfastError(
      'restore_unreachable',
      `the redo stream of ${shard} has a hole between ${formatLsn(reached)} and ${formatLsn(redo.from)}`,
      { detail: { shard, from: formatLsn(reached), to: formatLsn(redo.from) } },
    )
  }
  const one = present(cut.shards.get(shard), 'every shard is cut')
  const shapesHere = present(shapes.get(shard), 'a frozen shard has its shapes')
  return { shard, stop, cut: one, absent: absentBehind(stop, one), shapes: shapesHere, transactions, redo }
}

function boundFor(frozen: Frozen, { target, without }: RestoreRequest): Bound {
  if (target.kind === 'end') return endBound(frozen)
  return without.length === 0 ? resolveTarget(target, frozen.histories) : throughOf(frozen.histories)
}

function endBound({ end }: Frozen): Bound {
  return end === undefined ? { kind: 'end' } : { kind: 'end', through: end }
}

function throughOf(histories: readonly ShardHistory[]): Bound {
  return { kind: 'timestamp', timestamp: closedInAllArchives(histories).timestamp }
}
