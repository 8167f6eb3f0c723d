import { present } from '../base/assert.ts'
import { HoldfastError } from '../base/errors.ts'
import type { NodeId, ShardName } from '../directory/topology.ts'
import type { ConnectionTarget, Statement } from '../postgres/connection.ts'
import { accepted, ConnectionLost } from '../postgres/connection.ts'
import type { Lsn } from '../postgres/lsn.ts'
import { parseLsn } from '../postgres/lsn.ts'
import type { ConnectionPools } from '../postgres/pools.ts'

const barrierFlight: readonly Statement[] = [
  { text: 'select holdfast.barrier()' },
  { text: 'select pg_current_wal_flush_lsn()::text as position' },
]

/**
 * Barriers, shared by all who wait at the moment.
 *
 * What a reader sees on a primary may not be on its followers yet: a commit whose wait for them was cancelled or cut
 * by a crash is visible all the same (HZ-S1, HZ-S2). A barrier is one small synchronous write; acknowledged without a
 * warning, everything that was visible before it was *sent* is on the followers.
 *
 *   B1  A barrier covers only what was seen before it was sent. Whoever comes while one is under way waits for the
 *       next, which all those who came meanwhile share.
 *   B2  A warning, a lost connection or a refusal is no barrier: `pass` rejects, and what was read does not count.
 *   B3  A barrier speaks for the server that it passed on. After a promotion the new primary lets barriers pass that say
 *       nothing of what was read on the old one, so who comes names the node that was read.
 */
export interface Primary {
  readonly id: NodeId
  readonly target: ConnectionTarget
}

interface Passed {
  readonly on: NodeId
  readonly position: Lsn
}

export class BarrierGroup {
  readonly #primaryOf: (shard: ShardName) => Primary
  readonly #pools: ConnectionPools
  readonly #withinMs: number
  readonly #lanes = new Map<ShardName, { running: Promise<unknown>; next: Promise<Passed> | undefined }>()

  constructor(primaryOf: (shard: ShardName) => Primary, pools: ConnectionPools, withinMs: number) {
    this.#primaryOf = primaryOf
    this.#pools = pools
    this.#withinMs = withinMs
  }

  /**
   * Resolves with the shard's flushed position once everything visible at the call on the node that was read is on its
   * followers. Throws `node_unavailable`: nothing may be concluded from what was read.
   */
  async pass(shard: ShardName, readOn: NodeId): Promise<Lsn> {
    const { on, position } = await this.#pass(shard)
    if (on === readOn) return position
    throw new HoldfastError('node_unavailable', `${shard} has another primary by now than ${readOn}, which was read`, {
      hint: 'ask again',
      detail: { shard, readOn, on },
    })
  }

  #pass(shard: ShardName): Promise<Passed> {
    const lane = this.#lanes.get(shard)
    if (lane === undefined) return this.#start(shard)
    lane.next ??= lane.running.then(
      () => this.#start(shard),
      () => this.#start(shard),
    )
    return lane.next
  }

  #start(shard: ShardName): Promise<Passed> {
    const running = this.#send(shard)
    const lane = { running, next: undefined }
    this.#lanes.set(shard, lane)
    const leave = () => {
      if (this.#lanes.get(shard) === lane && lane.next === undefined) this.#lanes.delete(shard)
    }
    running.then(leave, leave)
    return running
  }

  async #send(shard: ShardName): Promise<Passed> {
    try {
      const { id, target } = this.#primaryOf(shard)
      const [barrier, position] = await this.#pools.flight(target, barrierFlight, this.#withinMs)
      const { warnings } = accepted(present(barrier, 'the outcome of the barrier'))
      if (warnings.length > 0) throw new ConnectionLost(`the barrier was answered with ${warnings[0]?.message}`, true)
      const [row] = accepted(present(position, 'the outcome of the position')).rows
      return { on: id, position: parseLsn(String(row?.['position'])) }
    } catch (error) {
      throw new HoldfastError('node_unavailable', `no barrier passes on ${shard}`, {
        hint: 'its followers may be away; commits wait for them too',
        detail: { shard },
        cause: error,
      })
    }
  }
}
