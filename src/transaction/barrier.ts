import { present } from '../base/assert.ts'
import { HoldfastError } from '../base/errors.ts'
import type { NodeId, ShardName } from '../directory/topology.ts'
import type { Connection } from '../postgres/connection.ts'
import type { ConnectionTarget, Statement, StatementOutcome } from '../postgres/statement.ts'
import { ConnectionLost } from '../postgres/failure.ts'
import { accepted } from '../postgres/statement.ts'
import type { Lsn } from '../postgres/lsn.ts'
import { formatLsn, parseLsn } from '../postgres/lsn.ts'
import type { ConnectionPools } from '../postgres/pools.ts'
import { oneRow } from './transaction-store.ts'

/** What was visible before lies before `written`; `replicated` is what enough followers have flushed. */
export const barrierFlight: readonly Statement[] = [
  { text: 'select holdfast.barrier(), pg_current_wal_insert_lsn()::text as written' },
  { text: 'select pg_current_wal_flush_lsn()::text as position, holdfast.replicated_through()::text as replicated' },
]

/**
 * Barriers, shared by all who wait at the moment.
 *
 * What a reader sees on a primary may not be on its followers yet: a commit whose wait for them was cancelled or cut
 * by a crash is visible all the same (HZ-S1, HZ-S2). A barrier is one small synchronous write; acknowledged without a
 * warning, and seen on enough followers, it shows that everything that was visible before it was *sent* is there.
 *
 *   B1  A barrier covers only what was seen before it was sent. Whoever comes while one is under way waits for the
 *       next, which all those who came meanwhile share.
 *   B2  A warning, a lost connection or a refusal is no barrier: `pass` rejects, and what was read does not count.
 *   B3  A barrier speaks for the server that it passed on. After a promotion the new primary lets barriers pass that say
 *       nothing of what was read on the old one, so who comes names the node that was read.
 *   B4  The acknowledgement alone is not believed. PostgreSQL also acknowledges what waited for nobody: names that were
 *       emptied release those who wait (HZ-S5), and names that were set wait for the checkpointer to take them up. So the
 *       positions of the followers are read behind the write.
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
      return { on: id, position: judgeBarrier(await this.#pools.durableFlight(target, barrierFlight, this.#withinMs)) }
    } catch (error) {
      throw noBarrier(shard, error)
    }
  }
}

/** Of a barrier that travelled on the connection that read (B1, B3). Throws `node_unavailable`, as `pass` does. */
export function readBarrier(shard: ShardName, outcomes: readonly StatementOutcome[]): Lsn {
  try {
    return judgeBarrier(outcomes)
  } catch (error) {
    throw noBarrier(shard, error)
  }
}

function noBarrier(shard: ShardName, cause: unknown): HoldfastError {
  return new HoldfastError('node_unavailable', `no barrier passes on ${shard}`, {
    hint: 'its followers may be away; commits wait for them too',
    detail: { shard },
    cause,
  })
}

/** The barrier of an operator's own connection, whose primary is in no topology yet. Throws `node_unavailable`. */
export async function passBarrier(connection: Connection, node: string, withinMs: number): Promise<Lsn> {
  try {
    return judgeBarrier(await connection.flight(barrierFlight, withinMs))
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : String(cause)
    throw new HoldfastError('node_unavailable', `no barrier passes at ${node}: ${why}`, { cause })
  }
}

/** The flushed position behind a barrier that passed; throws what kept it from passing. */
function judgeBarrier(outcomes: readonly StatementOutcome[]): Lsn {
  const barrier = present(outcomes[0], 'the outcome of the barrier')
  const [warning] = accepted(barrier).warnings
  if (warning !== undefined) throw new ConnectionLost(`the barrier was answered with ${warning.message}`, true)
  const { written } = oneRow<{ written: string }>(barrier)
  const behind = present(outcomes[1], 'the outcome of the position')
  const { position, replicated } = oneRow<{ position: string; replicated: string }>(behind)
  if (parseLsn(replicated) < parseLsn(written)) {
    throw new ConnectionLost(`enough followers have ${formatLsn(parseLsn(replicated))}, not ${written}`, true)
  }
  return parseLsn(position)
}
