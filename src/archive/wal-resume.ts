import type { Lsn } from '../postgres/lsn.ts'
import type { TimelineHistory } from './timeline.ts'
import { spansOf } from './timeline.ts'
import type { WalInventory } from './wal-inventory.ts'
import type { WalSegment } from './wal-segment.ts'
import { segmentNumber, segmentStart, timelineOfSegment } from './wal-segment.ts'

/**
 * The segment to receive next: the one behind the last whole segment of the server's history, from its beginning.
 * Bytes of it that are here already are received again, so that what a crash may have spoilt is written anew.
 *
 * An archive that has nothing of this history begins with the oldest segment that the slot keeps.
 */
export function nextSegment(
  inventory: WalInventory,
  history: TimelineHistory,
  segmentBytes: number,
  slotStart: Lsn,
): WalSegment {
  let number = segmentNumber(slotStart, segmentBytes)
  let last: bigint | undefined
  for (const { timeline, begin, end } of spansOf(history)) {
    for (const [candidate, { state }] of inventory.get(timeline) ?? []) {
      const begins = segmentNumber(begin, segmentBytes) <= candidate
      const whole = state === 'whole' && (end === null || end >= segmentStart(candidate + 1n, segmentBytes))
      if (begins && whole && (last === undefined || candidate > last)) last = candidate
    }
  }
  if (last !== undefined) number = last + 1n
  return { timeline: timelineOfSegment(history, number, segmentBytes), number }
}
