import type { ShardName } from '../directory/topology.ts'
import type { Hlc } from '../hlc/hlc.ts'
import { formatHlc, hlcFromWallMs, hlcZero, maxHlc, wallMsOfHlc } from '../hlc/hlc.ts'
import { stepClock } from '../hlc/shard-clock.ts'
import type { ShardClockReading } from './decision-store.ts'
import type { BranchName } from './gid.ts'

/**
 * A decision that its participant refuses for its time (C6), and what a person can do about it (C8). No I/O.
 *
 * It comes of a record that is not what home wrote, of a home whose two walls jumped ahead together after the vote, or of a
 * participant whose two walls fell behind. What tells them apart is home's commit log, which the decision wrote in the same
 * transaction as the record, and the walls of the other servers.
 */
export interface ClockRefusal {
  readonly commitTimestamp: Hlc
  /** Above the nearer wall of its participant. */
  readonly aheadMs: number
  readonly allowedMs: number
}

export type ClockRemedy =
  /** Home's commit log has another time, or nothing. */
  | { readonly kind: 'mend record'; readonly logged: Hlc | undefined }
  /** The servers of these shards have walls by which home may have decided so: theirs are wrong, or those here. */
  | { readonly kind: 'set walls'; readonly agreeing: readonly ShardName[] }
  /** Home decided so, and by every wall it was wrong about the time. */
  | { readonly kind: 'accept' }

/** `witness`: the wall of who asks. */
export function refusalOf(
  commitTimestamp: Hlc,
  { clock, wall, maxClockOffsetMs, accepted }: ShardClockReading,
  witness: Hlc,
): ClockRefusal | undefined {
  const command = { kind: 'observe decided', timestamp: commitTimestamp, accepted } as const
  const { refused } = stepClock({ clock, floor: hlcZero }, command, { server: wall, witness }, maxClockOffsetMs)
  if (refused === undefined) return undefined
  const aheadMs = wallMsOfHlc(commitTimestamp) - wallMsOfHlc(maxHlc(wall, witness))
  return { commitTimestamp, aheadMs, allowedMs: 3 * maxClockOffsetMs }
}

/** `walls`: of the servers of other shards, as far as they answer. */
export function remedyOf(
  { commitTimestamp, allowedMs }: ClockRefusal,
  logged: Hlc | undefined,
  walls: ReadonlyMap<ShardName, Hlc>,
): ClockRemedy {
  if (logged !== commitTimestamp) return { kind: 'mend record', logged }
  const agrees = (wall: Hlc) => commitTimestamp <= wall + hlcFromWallMs(allowedMs)
  const agreeing = [...walls].filter(([, wall]) => agrees(wall)).map(([shard]) => shard)
  return agreeing.length > 0 ? { kind: 'set walls', agreeing } : { kind: 'accept' }
}

/** What is refused, by how much, and the ways out. */
export function explainRefusal(
  { home, participant }: Pick<BranchName, 'home' | 'participant'>,
  { commitTimestamp, aheadMs, allowedMs }: ClockRefusal,
  remedy: ClockRemedy,
): string {
  const refused =
    `${home} has the record COMMITTED at ${formatHlc(commitTimestamp)}, ${aheadMs} ms ahead of every wall clock at ` +
    `${participant}, which adopts up to ${allowedMs} ms: later than any home decides that keeps to the offset`
  return `${refused}. ${waysOut(home, participant, aheadMs - allowedMs, remedy)}`
}

function waysOut(home: ShardName, participant: ShardName, leftMs: number, remedy: ClockRemedy): string {
  switch (remedy.kind) {
    case 'mend record': {
      const has = remedy.logged === undefined ? 'does not have it' : `has it at ${formatHlc(remedy.logged)}`
      return `The commit log of ${home} ${has}: put the record right there`
    }
    case 'set walls':
      return (
        `The wall clock of ${remedy.agreeing.join(' and ')} agrees with it: set the wrong ones right. ` +
        `Where they are those of ${participant}, it is settled then`
      )
    case 'accept':
      return (
        `The commit log of ${home} has the same, and no wall clock agrees: it was decided while the walls of ${home} were ahead. ` +
        `It is settled by itself when ${leftMs} ms have passed, or at once by holdfast resolve --accept-clock ${participant}; ` +
        `shards whose walls are right then refuse global commits with ${participant} until its time has come`
      )
  }
}
