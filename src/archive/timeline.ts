import { assert } from '../base/assert.ts'
import { HoldfastError } from '../base/errors.ts'
import type { Lsn } from '../postgres/lsn.ts'
import { formatLsn, parseLsn } from '../postgres/lsn.ts'

/**
 * How the log of a server came to be: its timeline and those it grew from, each with the position at which it was
 * left. PostgreSQL keeps it in a `.history` file for every timeline but the first (PostgreSQL, "Timelines").
 *
 * A position alone names no place in the log, since after a promotion two timelines have different bytes at the same
 * positions. A position together with a timeline history does.
 */
export interface TimelineHistory {
  readonly timeline: number
  /** From the oldest on. Switch positions never go down. */
  readonly parents: readonly TimelineParent[]
}

export interface TimelineParent {
  readonly timeline: number
  /** Where the next timeline begins: what this one has at and behind it is not part of the history. */
  readonly switchLsn: Lsn
}

/** Parses the content of `<timeline>.history`. Throws `check_failed` when it is not one. */
export function parseTimelineHistory(timeline: number, content: string): TimelineHistory {
  const parents: TimelineParent[] = []
  for (const line of content.split('\n')) {
    if (line.trim() === '' || line.trimStart().startsWith('#')) continue
    const match = /^\s*(\d+)\s+([0-9A-Fa-f]{1,8}\/[0-9A-Fa-f]{1,8})(\s|$)/.exec(line)
    if (match?.[1] === undefined || match[2] === undefined) throw malformed(timeline, line)
    const parent = { timeline: Number(match[1]), switchLsn: parseLsn(match[2]) }
    const last = parents.at(-1)
    const grows = last === undefined || (parent.timeline > last.timeline && parent.switchLsn >= last.switchLsn)
    if (!grows || parent.timeline >= timeline) throw malformed(timeline, line)
    parents.push(parent)
  }
  if ((timeline === 1) !== (parents.length === 0)) throw malformed(timeline, content)
  return { timeline, parents }
}

/** The content of a `.history` file that PostgreSQL reads as this history. */
export function formatTimelineHistory(history: TimelineHistory): string {
  return history.parents
    .map(({ timeline, switchLsn }) => `${timeline}\t${formatLsn(switchLsn)}\tas archived\n`)
    .join('')
}

/** The history of a timeline that no promotion led to. */
export const firstTimeline: TimelineHistory = { timeline: 1, parents: [] }

/** The part of the history up to an older timeline of it. */
export function historyOf(history: TimelineHistory, timeline: number): TimelineHistory {
  if (timeline === history.timeline) return history
  const index = history.parents.findIndex((parent) => parent.timeline === timeline)
  assert(index >= 0, `timeline ${timeline} is not an ancestor of timeline ${history.timeline}`)
  return { timeline, parents: history.parents.slice(0, index) }
}

export interface TimelineSpan {
  readonly timeline: number
  readonly begin: Lsn
  /** The position from which it is no longer part of the history; null of the newest one. */
  readonly end: Lsn | null
}

/** Which timeline the history runs on between which positions, from the oldest on. */
export function spansOf(history: TimelineHistory): TimelineSpan[] {
  const timelines = [...history.parents.map((parent) => parent.timeline), history.timeline]
  return timelines.map((timeline, index) => ({
    timeline,
    begin: history.parents[index - 1]?.switchLsn ?? (0n as Lsn),
    end: history.parents[index]?.switchLsn ?? null,
  }))
}

function malformed(timeline: number, line: string): HoldfastError {
  return new HoldfastError('check_failed', `the history of timeline ${timeline} is malformed: ${JSON.stringify(line)}`)
}
