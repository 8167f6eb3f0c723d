import type { Epoch, FleetNode, NodeId, ShardName, ShardTopology } from '../directory/topology.ts'

/** Who answers for a shard. */
interface Asked extends Pick<ShardTopology, 'name' | 'epoch'> {
  readonly primary: Pick<FleetNode, 'id'>
}

interface Drain {
  readonly on: NodeId
  readonly epoch: Epoch
  /** The watermark that stood there before the first look. */
  readonly throughMs: number
  /** Who was open at every look so far, by virtual transaction. */
  readonly open: ReadonlySet<string>
}

/**
 * Who was open on a shard when a watermark stood there, and has not ended since: what began later has seen it (K1, K2). No I/O.
 *
 * Kept from one pass over a home to the next. Where transactions overlap and each is open for longer than a pass waits, somebody is
 * open at every moment, and who asked each time for whoever is open *now* would never come to an end. So a set only
 * shrinks, and the aim stays while it is waited for: records that grow old meanwhile would raise it with every pass, and a
 * higher watermark has been seen by nobody yet. Another primary, and one of another epoch, begins anew.
 */
export class CollectionDrains {
  #aimMs: number | undefined
  readonly #drains = new Map<ShardName, Drain>()

  /** The watermark to go on with, at or below the one that is due now. */
  aim(dueMs: number): number {
    this.#aimMs = Math.min(dueMs, this.#aimMs ?? dueMs)
    return this.#aimMs
  }

  /** The aim has shown all that it can. */
  endAim(): void {
    this.#aimMs = undefined
  }

  /** Takes a look at who is `open`, by a primary where the watermark stands. Whether all who may not have seen it have ended. */
  narrow({ name, epoch, primary }: Asked, throughMs: number, open: readonly string[]): boolean {
    const before = this.#drains.get(name)
    const isSame = before?.on === primary.id && before.epoch === epoch && throughMs <= before.throughMs
    const drain: Drain = isSame
      ? { ...before, open: new Set(open.filter((one) => before.open.has(one))) }
      : { on: primary.id, epoch, throughMs, open: new Set(open) }
    this.#drains.set(name, drain)
    return drain.open.size === 0
  }
}
