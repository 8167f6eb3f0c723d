import { formatWallMs } from '../base/clock.ts'
import { HoldfastError } from '../base/errors.ts'
import type { ShardName, TransactionId } from '../directory/topology.ts'
import type { Hlc } from '../hlc/hlc.ts'
import { formatHlc, hlcFromWallMs, parseHlc, toHlc, wallMsMax } from '../hlc/hlc.ts'
import type { Lsn } from '../postgres/lsn.ts'
import { formatLsn, parseLsn } from '../postgres/lsn.ts'
import type { ShardHistory, TransactionName } from './history.ts'
import type { Bound, Position } from './position.ts'
import { timestampNeeded } from './position.ts'

/** The point of history that a restore aims at. */
export type RecoveryTarget =
  | { readonly kind: 'before'; readonly transaction: TransactionName }
  /** Everything at or below the timestamp; with an id, at or below the pair. */
  | { readonly kind: 'at'; readonly timestamp: Hlc; readonly transactionId: TransactionId | null }
  /** Everything stamped in or before this millisecond. */
  | { readonly kind: 'time'; readonly wallMs: number }
  /** Everything that the archives hold: a shard was lost. */
  | { readonly kind: 'end' }

const uuidForm = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/
const utcForm = /^\d{4}-\d\d-\d\d(T\d\d:\d\d(:\d\d(\.\d{1,3})?)?Z)?$/

/** The whole of the millisecond is kept, so the next one must fit as well. */
const targetMsMax = wallMsMax - 1

/**
 * The target of a command line or a request. `at` takes an HLC timestamp, an HLC timestamp and a transaction id with a
 * comma between, a UTC time, or `end`. Throws `argument_invalid`.
 */
export function parseTarget(text: {
  readonly before?: string | undefined
  readonly at?: string | undefined
}): RecoveryTarget {
  const { before, at } = text
  if ((before === undefined) === (at === undefined)) {
    throw new HoldfastError('argument_invalid', 'a restore takes either before or at, and not both')
  }
  if (before !== undefined) return { kind: 'before', transaction: parseTransactionName(before) }
  const value = at ?? ''
  if (value === 'end') return { kind: 'end' }
  if (utcForm.test(value)) return { kind: 'time', wallMs: parseUtc(value) }
  const [timestamp = '', id] = value.split(',', 2)
  if (id !== undefined && !uuidForm.test(id)) {
    throw new HoldfastError('argument_invalid', `not a transaction id: ${JSON.stringify(id)}`, {
      hint: 'write a timestamp and a transaction id with a comma between',
    })
  }
  return { kind: 'at', timestamp: parseHlc(timestamp), transactionId: (id ?? null) as TransactionId | null }
}

/** The milliseconds of a UTC time that an HLC can have. `Date.parse` takes 31 February for a day in March. */
function parseUtc(text: string): number {
  const wallMs = Date.parse(text)
  const isDate = !Number.isNaN(wallMs) && formatWallMs(wallMs).startsWith(text.replace('Z', ''))
  if (isDate && wallMs >= 0 && wallMs <= targetMsMax) return wallMs
  throw new HoldfastError('argument_invalid', `no time to restore to: ${JSON.stringify(text)}`, {
    hint: `write a date of the calendar, from ${formatWallMs(0)} to ${formatWallMs(targetMsMax)}`,
  })
}

/** A transaction id, or `shard@LSN`, in the form that `nameOf` gives. Throws `argument_invalid`. */
export function parseTransactionName(text: string): TransactionName {
  const lowered = text.toLowerCase()
  if (uuidForm.test(lowered)) return lowered
  const separator = text.lastIndexOf('@')
  const lsn = text.slice(separator + 1)
  if (separator > 0 && /^[0-9A-Fa-f]{1,8}\/[0-9A-Fa-f]{1,8}$/.test(lsn)) {
    return `${text.slice(0, separator)}@${formatLsn(parseLsn(lsn))}`
  }
  throw new HoldfastError('argument_invalid', `not the name of a transaction: ${JSON.stringify(text)}`, {
    hint: 'write a transaction id, or shard@LSN for a commit without one',
  })
}

export function formatTarget(target: RecoveryTarget): string {
  switch (target.kind) {
    case 'before':
      return `before ${target.transaction}`
    case 'at':
      return `at ${formatHlc(target.timestamp)}${target.transactionId === null ? '' : `,${target.transactionId}`}`
    case 'time':
      return `at ${formatWallMs(target.wallMs)}`
    case 'end':
      return 'the end'
  }
}

/** The bound in the order of all commits. Throws `unknown_transaction` when no archive has the one that is named. */
export function resolveTarget(target: RecoveryTarget, histories: readonly ShardHistory[]): Bound {
  switch (target.kind) {
    case 'end':
      return { kind: 'end' }
    case 'time':
      return { kind: 'timestamp', timestamp: toHlc(hlcFromWallMs(target.wallMs + 1) - 1n) }
    case 'at': {
      const { timestamp, transactionId } = target
      if (transactionId === null) return { kind: 'timestamp', timestamp }
      return { kind: 'position', position: { kind: 'stamped', timestamp, transactionId }, inclusive: true }
    }
    case 'before': {
      return { kind: 'position', position: findPosition(target.transaction, histories), inclusive: false }
    }
  }
}

/** The names that a plan asks the histories about. */
export function namesIn(target: RecoveryTarget, without: readonly TransactionName[]): TransactionName[] {
  return target.kind === 'before' ? [target.transaction, ...without] : [...without]
}

/** Of a transaction that the histories were asked about; it has one on all of its shards. Throws `unknown_transaction`. */
export function findPosition(name: TransactionName, histories: readonly ShardHistory[]): Position {
  for (const { survey } of histories) {
    const found = survey.named.get(name)
    if (found !== undefined) return found
  }
  throw new HoldfastError('unknown_transaction', `no archive has transaction ${name}`, {
    hint: 'it may be newer than what is archived, or older than the archives go',
    detail: { transaction: name },
  })
}

/** Up to where all archives hold every commit. */
export function closedInAllArchives(histories: readonly ShardHistory[]): { shard: ShardName; timestamp: Hlc } {
  let least: { shard: ShardName; timestamp: Hlc } | undefined
  for (const { shard, redo } of histories) {
    if (least === undefined || redo.closedTimestamp < least.timestamp)
      least = { shard, timestamp: redo.closedTimestamp }
  }
  if (least !== undefined) return least
  throw new HoldfastError('restore_unreachable', 'there is no archive to restore from')
}

/**
 * A restore is exact only up to what all archives are known to hold, and only on the near side of a hole in a redo
 * stream. Throws `restore_unreachable`, which says the bound.
 */
export function requireReachable(bound: Bound, histories: readonly ShardHistory[]): void {
  const needed = timestampNeeded(bound)
  if (needed === undefined) return
  const { shard, timestamp } = closedInAllArchives(histories)
  if (needed > timestamp) {
    throw new HoldfastError(
      'restore_unreachable',
      `the target ${formatHlc(needed)} lies above ${formatHlc(timestamp)}, up to where the archive of ${shard} is closed`,
      {
        hint: 'try again when the archives have caught up',
        detail: { shard, reachable: formatHlc(timestamp), target: formatHlc(needed) },
      },
    )
  }
  for (const history of histories) requireBehindHole(needed, history)
}

/** Before a hole the stream is silent, so a bound there says nothing about the commits that are missing. */
function requireBehindHole(needed: Hlc, { shard, redo, survey: { first } }: ShardHistory): void {
  const beginning: Lsn = redo.from
  if (beginning === 0n) return
  if (first === null || needed >= first.timestamp) return
  throw new HoldfastError(
    'restore_unreachable',
    `the redo stream of ${shard} begins at ${formatLsn(beginning)}, behind the target ${formatHlc(needed)}`,
    { detail: { shard, from: formatLsn(beginning), target: formatHlc(needed) } },
  )
}
