import type { NodeId, ShardName } from '../directory/topology.ts'
import type { Hlc } from '../hlc/hlc.ts'
import { hlcFromWallMs, hlcZero, maxHlc } from '../hlc/hlc.ts'

/** A clock that is further behind stands still: whoever comes next brings it to wall time. */
const standsStillMs = 50

/** As much of a shard as tells its clocks apart. */
interface ClockOwner {
  readonly name: ShardName
  readonly primary: { readonly id: NodeId }
}

/**
 * What this process last heard of each shard's clock. A transaction need not ask a clock to approach what it is past
 * already. A reading that does not hold any more, as after a crash that lost a move, costs an attempt and no more: the
 * stamp itself refuses to lie at or below the frontier.
 */
export class ClockReadings {
  readonly #readings = new Map<ShardName, { readonly primary: NodeId; readonly clock: Hlc }>()

  note({ name, primary }: ClockOwner, clock: Hlc): void {
    const known = this.#readings.get(name)
    const before = known?.primary === primary.id ? known.clock : hlcZero
    this.#readings.set(name, { primary: primary.id, clock: maxHlc(before, clock) })
  }

  forget({ name }: ClockOwner): void {
    this.#readings.delete(name)
  }

  /** Whether the shard's clock runs, and is at or past the frontier. */
  isPast({ name, primary }: ClockOwner, frontier: Hlc, wallMs: number): boolean {
    const known = this.#readings.get(name)
    return (
      known !== undefined &&
      known.primary === primary.id &&
      known.clock >= frontier &&
      known.clock >= hlcFromWallMs(wallMs - standsStillMs)
    )
  }
}
