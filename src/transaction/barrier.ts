import { present } from '../base/assert.ts'
import { HoldfastError } from '../base/errors.ts'
import type { ShardName } from '../directory/topology.ts'
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
 */
export class BarrierGroup {
  readonly #targetOf: (shard: ShardName) => ConnectionTarget
  readonly #pools: ConnectionPools
  readonly #withinMs: number
  readonly #lanes = new Map<ShardName, { running: Promise<unknown>; next: Promise<Lsn> | undefined }>()

  constructor(targetOf: (shard: ShardName) => ConnectionTarget, pools: ConnectionPools, withinMs: number) {
    this.#targetOf = targetOf
    this.#pools = pools
    this.#withinMs = withinMs
  }

  /**
   * Resolves with the shard's flushed position once everything visible at the call is on its followers. Throws
   * `node_unavailable`: nothing may be concluded from what was read.
   */
  pass(shard: ShardName): Promise<Lsn> {
    const lane = this.#lanes.get(shard)
    if (lane === undefined) return this.#start(shard)
    lane.next ??= lane.running.then(
      () => this.#start(shard),
      () => this.#start(shard),
    )
    return lane.next
  }

  #start(shard: ShardName): Promise<Lsn> {
    const running = this.#send(shard)
    const lane = { running, next: undefined }
    this.#lanes.set(shard, lane)
    const leave = () => {
      if (this.#lanes.get(shard) === lane && lane.next === undefined) this.#lanes.delete(shard)
    }
    running.then(leave, leave)
    return running
  }

  async #send(shard: ShardName): Promise<Lsn> {
    try {
      const [barrier, position] = await this.#pools.flight(this.#targetOf(shard), barrierFlight, this.#withinMs)
      const { warnings } = accepted(present(barrier, 'the outcome of the barrier'))
      if (warnings.length > 0) throw new ConnectionLost(`the barrier was answered with ${warnings[0]?.message}`, true)
      const [row] = accepted(present(position, 'the outcome of the position')).rows
      return parseLsn(String(row?.['position']))
    } catch (error) {
      throw new HoldfastError('node_unavailable', `no barrier passes on ${shard}`, {
        hint: 'its followers may be away; commits wait for them too',
        detail: { shard },
        cause: error,
      })
    }
  }
}
