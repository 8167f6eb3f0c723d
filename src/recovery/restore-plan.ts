import type { ShardArchive } from '../archive/archive.ts'
import type { BaseBackupEntry } from '../archive/base-backups.ts'
import type { TimelineHistory } from '../archive/timeline.ts'
import { present } from '../base/assert.ts'
import type { Clock } from '../base/clock.ts'
import { HoldfastError } from '../base/errors.ts'
import type { ShardName } from '../directory/topology.ts'
import type { Hlc } from '../hlc/hlc.ts'
import type { Lsn } from '../postgres/lsn.ts'
import { formatLsn } from '../postgres/lsn.ts'
import { boundOn, endOf, waitGoingOn } from './archive-end.ts'
import type { Cut, Stop } from './cut.ts'
import { chooseBackup, chooseStop, planCut, reachedBy } from './cut.ts'
import type { Exclusion } from './exclusion.ts'
import { closeExclusion } from './exclusion.ts'
import type { ShardHistory, TransactionName } from './history.ts'
import { highestOf, Surveyor } from './history.ts'
import type { Bound } from './position.ts'
import { isWithin } from './position.ts'
import type { Shapes } from './row-key.ts'
import type { RecoveryTarget } from './target.ts'
import { closedInAllArchives, findPosition, namesIn, requireReachable, resolveTarget } from './target.ts'

export interface RestoreRequest {
  readonly target: RecoveryTarget
  /** Replay everything behind the target except these. What depends on them must be named too. */
  readonly without: readonly TransactionName[]
  readonly isDrill?: boolean
}

/** What the archives say at one moment: the frozen timeline that a restore is planned over. */
export interface Frozen {
  /** The histories know the transactions that it names, and no other. */
  readonly request: Pick<RestoreRequest, 'target' | 'without'>
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
  readonly history: ShardHistory
  readonly shapes: Shapes
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

export async function freeze(
  archives: ReadonlyMap<ShardName, ShardArchive>,
  request: Frozen['request'],
  signal?: AbortSignal,
): Promise<Frozen> {
  const histories: ShardHistory[] = []
  const shapes = new Map<ShardName, Shapes>()
  const timelines = new Map<ShardName, TimelineHistory>()
  for (const [shard, archive] of archives) {
    const history = await archive.timelineHistory()
    const redo = await archive.redoThrough(history)
    if (redo === undefined) {
      throw new HoldfastError('restore_unreachable', `the redo stream of ${shard} is empty`, { detail: { shard } })
    }
    // From a position that is named: a stream may have a hole by the next time, from behind which it would be read otherwise.
    const read = (from: Lsn = redo.from) => archive.readRedo({ history, from, to: redo.lsn, signal })
    const surveyor = new Surveyor(namesIn(request.target, request.without))
    for await (const transaction of read()) surveyor.pass(transaction)
    histories.push({ shard, redo, survey: surveyor.conclude(), read })
    shapes.set(shard, await archive.relationShapes({ history, at: redo.lsn }))
    timelines.set(shard, history)
  }
  return { request, histories, shapes, timelines }
}

/** For a restore, which begins while the fleet goes on. */
export async function freezeFor(
  request: RestoreRequest,
  archives: ReadonlyMap<ShardName, ShardArchive>,
  clock: Clock,
  signal?: AbortSignal,
): Promise<Frozen> {
  if (request.target.kind !== 'end') return freeze(archives, request, signal)
  const began = await waitGoingOn(archives, clock)
  const frozen = await freeze(archives, request, signal)
  return { ...frozen, end: endOf(frozen.histories, began) }
}

/** What would go, before anything is done: the dry run of a replay without. */
export async function planExclusion(frozen: Frozen): Promise<Exclusion | null> {
  const { histories, shapes } = frozen
  const { target, without } = frozen.request
  if (without.length === 0) return null
  // What is lost with a shard lies above all that its archive is closed at, and so do the other parts of it.
  if (target.kind === 'end') return closeExclusion(histories, shapes, without, endBound(frozen))
  const behind = resolveTarget(target, histories)
  for (const name of without) {
    if (!isWithin(behind, findPosition(name, histories))) continue
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
  const exclusion = await planExclusion(frozen)
  const bound = boundFor(frozen)
  requireReachable(bound, histories)
  const cut = await planCut(histories, { bound, excluded: exclusion?.closure ?? new Map() })
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
    shards.set(shard, { ...planShard(frozen, shard, stop), timeline, backup })
  }
  const { timestamp: reachable } = closedInAllArchives(histories)
  return { request, bound, exclusion, cut, shards, reachable, clock: highestOf(histories) }
}

/**
 * The history of an environment that was restored before, over what the archives hold by now. With `without` that is all of
 * it but what was left out; else what the target says. `stops` are those of the environment.
 */
export async function planCatchUp(frozen: Frozen, stops: ReadonlyMap<ShardName, Stop>): Promise<HistoryPlan> {
  const { histories, shapes } = frozen
  const { target, without } = frozen.request
  const bound = without.length === 0 ? resolveTarget(target, histories) : ({ kind: 'end' } as const)
  const exclusion = without.length === 0 ? null : await closeExclusion(histories, shapes, without, bound)
  const cut = await planCut(histories, { bound, excluded: exclusion?.closure ?? new Map() })
  const shards = new Map([...stops].map(([shard, stop]) => [shard, planShard(frozen, shard, stop)]))
  return { bound, exclusion, cut, shards, clock: highestOf(histories) }
}

function planShard({ histories, shapes }: Frozen, shard: ShardName, stop: Stop): ShardHistoryPlan {
  const history = present(
    histories.find((one) => one.shard === shard),
    'every shard was frozen',
  )
  const reached = reachedBy(stop)
  const { from } = history.redo
  if (reached < from) {
    throw new HoldfastError(
      'restore_unreachable',
      `the redo stream of ${shard} has a hole between ${formatLsn(reached)} and ${formatLsn(from)}`,
      { detail: { shard, from: formatLsn(reached), to: formatLsn(from) } },
    )
  }
  return { shard, stop, history, shapes: present(shapes.get(shard), 'a frozen shard has its shapes') }
}

function boundFor(frozen: Frozen): Bound {
  const { histories, request } = frozen
  if (request.target.kind === 'end') return endBound(frozen)
  return request.without.length === 0 ? resolveTarget(request.target, histories) : throughOf(histories)
}

function endBound({ end }: Frozen): Bound {
  return end === undefined ? { kind: 'end' } : { kind: 'end', through: end }
}

function throughOf(histories: readonly ShardHistory[]): Bound {
  return { kind: 'timestamp', timestamp: closedInAllArchives(histories).timestamp }
}
