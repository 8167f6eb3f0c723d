import { unreachable } from '../base/assert.ts'
import type { Hlc } from './hlc.ts'
import { hlcFromWallMs, hlcZero, maxHlc, ticksPerMs, toHlc } from './hlc.ts'

/**
 * What the functions of `sql/functions/10-clock.sql` do with the clock of a shard, as a function of what they read. The
 * invariants C2, C3, C6 and C8 of docs/protocols/clock.md are properties of this; a test holds the SQL to it.
 *
 * Two wall clocks are read at every move, that of the shard's server and that of the gateway that asks, and each of them
 * may jump in both directions.
 */
export interface ShardClock {
  /** The last value that was drawn or set. */
  readonly clock: Hlc
  /** No stamp lies at or below it. */
  readonly floor: Hlc
}

export interface Walls {
  readonly server: Hlc
  /** The wall clock of the gateway that asks. */
  readonly witness: Hlc
}

export type ClockCommand =
  | { readonly kind: 'draw' }
  | { readonly kind: 'tick' }
  /** A timestamp from elsewhere. */
  | { readonly kind: 'observe'; readonly timestamp: Hlc }
  /** The timestamp of a decision that was taken elsewhere. */
  /** `accepted`: up to where a person has let this clock be moved (C8). */
  | { readonly kind: 'observe decided'; readonly timestamp: Hlc; readonly accepted?: Hlc }
  | { readonly kind: 'raise floor'; readonly to: Hlc }

export type ClockRefusal = 'clock offset exceeded' | 'clock regressed'

export interface ClockStep {
  readonly after: ShardClock
  readonly refused: ClockRefusal | undefined
}

/**
 * What is nearer is drawn and not set, one value at a time: a sixteenth of a millisecond. A mover that is paused for longer
 * than others need to draw as much does not set (HZ-C9).
 */
const moveMargin = 4096n

export function stepClock(
  before: ShardClock,
  command: ClockCommand,
  walls: Walls,
  maxClockOffsetMs: number,
): ClockStep {
  const wall = agreedWall(walls, maxClockOffsetMs)
  switch (command.kind) {
    case 'draw': {
      const clock = toHlc(before.clock + 1n)
      return { after: { ...before, clock }, refused: clock <= before.floor ? 'clock regressed' : undefined }
    }
    case 'tick':
      if (wall - before.clock <= ticksPerMs) return { after: before, refused: undefined }
      return moved(before, wall, wall)
    case 'observe':
      if (before.clock >= command.timestamp) return { after: before, refused: undefined }
      if (command.timestamp > wall + hlcFromWallMs(maxClockOffsetMs)) {
        return { after: before, refused: 'clock offset exceeded' }
      }
      return moved(before, command.timestamp, wall)
    case 'observe decided':
      if (before.clock >= command.timestamp) return { after: before, refused: undefined }
      if (
        command.timestamp > latestDecision(walls, maxClockOffsetMs) &&
        command.timestamp > (command.accepted ?? hlcZero)
      ) {
        return { after: before, refused: 'clock offset exceeded' }
      }
      return moved(before, command.timestamp, wall)
    case 'raise floor':
      return { after: { ...before, floor: maxHlc(before.floor, command.to) }, refused: undefined }
    default:
      return unreachable(command)
  }
}

/** The wall time that a shard goes by: its server's, unless that is further ahead of its witness than may be. */
export function agreedWall({ server, witness }: Walls, maxClockOffsetMs: number): Hlc {
  return server > witness + hlcFromWallMs(maxClockOffsetMs) ? witness : server
}

/** No home that kept to the offset decides later than this, with one wrong wall at each shard. */
export function latestDecision({ server, witness }: Walls, maxClockOffsetMs: number): Hlc {
  return toHlc(maxHlc(server, witness) + hlcFromWallMs(3 * maxClockOffsetMs))
}

/** Far targets are set, and near ones where the agreed wall has passed them. Others are drawn, one value at a time. */
function moved(before: ShardClock, target: Hlc, wall: Hlc): ClockStep {
  const settable = maxHlc(target, toHlc(before.clock + moveMargin))
  const isSet = settable - before.clock > moveMargin || settable <= wall
  const clock = target <= before.clock ? before.clock : isSet ? settable : target
  return { after: { ...before, clock }, refused: undefined }
}
