import type { Lsn } from '../postgres/lsn.ts'
import { maxLsn, toLsn } from '../postgres/lsn.ts'
import type { TimelineHistory } from './timeline.ts'
import { spansOf } from './timeline.ts'
import type { SegmentState, WalInventory } from './wal-inventory.ts'
import type { WalExtent } from './wal-records.ts'
import { segmentNumber, segmentStart } from './wal-segment.ts'

/**
 * Says over which ground a restore may go (A3): pure, over a listing of the archive.
 *
 * Counting segments is not enough. A promotion changes the timeline in the middle of one, and the end of the old
 * timeline that the promotion left behind is in the archive as well; a server that was promoted may have taken for
 * archived what nobody archived (HZ-A1). So the audit follows one timeline history, segment by segment.
 */
export interface WalAudit {
  readonly from: Lsn
  /** The end of the last whole record that is reached from `from` without a gap; `from` when there is none. */
  readonly contiguousThrough: Lsn
  /** Where that record starts: the inclusive stop of a restore to the very end. Null when no record was found. */
  readonly lastRecord: Lsn | null
  /** Ranges of segments that are not there, although later ones are, or the wanted position lies behind them. */
  readonly gaps: readonly WalGap[]
  readonly checksumFailures: readonly ChecksumFailure[]
}

export interface WalGap {
  /** Where the segments should have come from. */
  readonly timeline: number
  readonly from: Lsn
  readonly to: Lsn
}

export interface ChecksumFailure {
  readonly timeline: number
  readonly segment: string
  readonly reason: string
}

/** One file of a way through the log. */
export interface WalStep {
  readonly timeline: number
  readonly number: bigint
  readonly state: SegmentState
  /** From here on, its bytes are not part of the history: a promotion left them behind. */
  readonly limit: Lsn | null
}

export interface WalWay {
  /** Whole segments without a gap, and behind them at most one that is whole only in part. */
  readonly steps: readonly WalStep[]
  readonly gaps: readonly WalGap[]
  /** What is there behind the first gap. */
  readonly beyond: readonly WalStep[]
}

export interface WayQuestion {
  readonly history: TimelineHistory
  readonly segmentBytes: number
  readonly from: Lsn
  /** As far as there are segments when left out. */
  readonly to?: Lsn
  readonly inventory: WalInventory
  /** Segments that are there but cannot be used, as `timeline/number`. */
  readonly damaged: ReadonlySet<string>
}

/** The way along one history from `from` to as far as it goes, and what is missing behind that. */
export function findWay(question: WayQuestion): WalWay {
  const { history, segmentBytes, from, to } = question
  const first = segmentNumber(from, segmentBytes)
  const last = to === undefined ? lastNumber(question) : segmentNumber(maxLsn(from, toLsn(to - 1n)), segmentBytes)
  const steps: WalStep[] = []
  const beyond: WalStep[] = []
  const gaps: WalGap[] = []
  let open = true
  for (let number = first; number <= last; number++) {
    const step = findStep(question, number)
    if (step !== undefined) (open ? steps : beyond).push(step)
    open = open && isPassable(step)
    // What ends in the last segment is no gap; what ends before it is.
    if (isPassable(step) || (step !== undefined && number === last)) continue
    const gap = { from: segmentStart(number, segmentBytes), to: segmentStart(number + 1n, segmentBytes) }
    const before = gaps.at(-1)
    const { timeline } = spansIn(history, number, segmentBytes)[0] ?? history
    if (before?.timeline === timeline && before.to === gap.from) gaps[gaps.length - 1] = { ...before, to: gap.to }
    else gaps.push({ timeline, ...gap })
  }
  return { steps, gaps, beyond }
}

/**
 * The way with the segment behind it, for a record that begins within the way and ends behind it. The same way where it cannot go on,
 * which is no gap.
 */
export function extendWay(question: WayQuestion, way: WalWay): WalWay {
  const last = way.steps.at(-1)
  if (last === undefined || way.gaps.length > 0 || !isPassable(last)) return way
  const next = findStep(question, last.number + 1n)
  return next === undefined ? way : { ...way, steps: [...way.steps, next] }
}

/** The verdict, once the end of the way has been read. */
export function auditWay(
  question: Pick<WayQuestion, 'from' | 'to'>,
  way: WalWay,
  extent: WalExtent | undefined,
  checksumFailures: readonly ChecksumFailure[],
): WalAudit {
  const { from } = question
  const reached = extent !== undefined && extent.end > from ? extent : { end: from, lastRecord: null }
  return {
    from,
    contiguousThrough: reached.end,
    lastRecord: reached.lastRecord,
    gaps: way.gaps,
    checksumFailures,
  }
}

export function damagedKey(timeline: number, number: bigint): string {
  return `${timeline}/${number}`
}

/**
 * The file that has most of a segment of the history; among equals that of the newest timeline, where PostgreSQL looks first. A
 * promotion in the middle of a segment has the new timeline begin with a copy of it: until that is received, the old
 * timeline's goes further, up to where it ended.
 */
function findStep(question: WayQuestion, number: bigint): WalStep | undefined {
  const { inventory, damaged, segmentBytes } = question
  const start = segmentStart(number, segmentBytes)
  let best: { readonly step: WalStep; readonly reach: number } | undefined
  for (const { timeline, end } of spansIn(question.history, number, segmentBytes)) {
    const file = inventory.get(timeline)?.get(number)
    if (file === undefined || damaged.has(damagedKey(timeline, number))) continue
    const limit = end !== null && end < segmentStart(number + 1n, segmentBytes) ? end : null
    const reach = limit === null ? file.bytes : Math.min(file.bytes, Number(limit - start))
    if (best === undefined || reach > best.reach) best = { step: { timeline, number, state: file.state, limit }, reach }
  }
  return best?.step
}

/** The spans of the history that have a part in a segment, the newest first. */
function spansIn(history: TimelineHistory, number: bigint, segmentBytes: number) {
  return spansOf(history)
    .filter(({ begin, end }) => {
      const begins = segmentNumber(begin, segmentBytes) <= number
      return begins && (end === null || end > segmentStart(number, segmentBytes))
    })
    .reverse()
}

function isPassable(step: WalStep | undefined): boolean {
  return step?.state === 'whole' && step.limit === null
}

function lastNumber({ history, inventory, segmentBytes, from }: WayQuestion): bigint {
  let last = segmentNumber(from, segmentBytes)
  for (const { timeline, begin, end } of spansOf(history)) {
    for (const number of inventory.get(timeline)?.keys() ?? []) {
      const begins = segmentNumber(begin, segmentBytes) <= number
      if (begins && (end === null || end > segmentStart(number, segmentBytes)) && number > last) last = number
    }
  }
  return last
}
