import type { ShardArchive } from '../archive/archive.ts'
import type { RedoThrough } from '../archive/redo-transaction.ts'
import type { Clock } from '../base/clock.ts'
import type { ShardName } from '../directory/topology.ts'
import type { Hlc } from '../hlc/hlc.ts'
import { hlcZero, maxHlc, toHlc } from '../hlc/hlc.ts'
import type { ShardHistory } from './history.ts'
import { highestOf } from './history.ts'
import type { Bound } from './position.ts'

/**
 * Where the end of the archives lies for a restore.
 *
 * The simple way, everything that each of them has, tears transactions apart: the archives are read one after the other while
 * the fleet goes on, and the second has a branch whose home came into the first a moment after that was read. So the end is
 * where all archives are closed that go on, a cut like any other. One that does not go on is of a shard that was lost, or that nobody
 * archives: it is wanted to its very end, beyond what is known to be closed. What such a shard lacks of a global transaction nobody
 * can add, and the check of the restored shards names it.
 */

/** For every archive to show that it goes on. A closed timestamp moves on within a second, also where nobody writes. */
const goesOnWithinMs = 5_000
const pollMs = 50

/** Waits until every archive is closed above all that any is closed at now, but not for ever; gives that timestamp. */
export async function waitGoingOn(archives: ReadonlyMap<ShardName, ShardArchive>, clock: Clock): Promise<Hlc> {
  const closed = () =>
    Promise.all([...archives.values()].map(async (one) => (await one.redoThrough())?.closedTimestamp ?? hlcZero))
  const began = (await closed()).reduce(maxHlc, hlcZero)
  const deadline = clock.monotonicMs() + goesOnWithinMs
  while ((await closed()).some((timestamp) => timestamp <= began) && clock.monotonicMs() < deadline) {
    await clock.sleep(pollMs)
  }
  return began
}

/** `began` is what `waitGoingOn` gave before the archives were read. */
export function endOf(histories: readonly ShardHistory[], began: Hlc): Hlc {
  const isGoingOn = ({ redo }: ShardHistory) => redo.closedTimestamp > began
  const closed = histories.filter(isGoingOn).map(({ redo }) => redo.closedTimestamp)
  const stalled = histories.filter((one) => !isGoingOn(one))
  const least = closed.reduce<Hlc | null>((low, one) => (low === null || one < low ? one : low), null)
  // Above all of the stalled: also of commits without a stamp, which follow the last one.
  return stalled.length === 0 ? (least ?? hlcZero) : maxHlc(least ?? hlcZero, toHlc(highestOf(stalled) + 1n))
}

/** Of one shard: an end that its archive is closed at is a timestamp, and what was archived since is not looked at. */
export function boundOn(bound: Bound, { closedTimestamp }: RedoThrough): Bound {
  if (bound.kind !== 'end' || bound.through === undefined || closedTimestamp < bound.through) return bound
  return { kind: 'timestamp', timestamp: bound.through }
}
