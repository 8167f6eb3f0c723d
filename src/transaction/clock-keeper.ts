import type { Clock } from '../base/clock.ts'
import { HoldfastError } from '../base/errors.ts'
import type { Metrics } from '../base/metrics.ts'
import type { OnStep } from '../base/step.ts'
import type { FleetNode, RegionName, ShardName, TopologySource } from '../directory/topology.ts'
import type { Hlc } from '../hlc/hlc.ts'
import { hlcZero } from '../hlc/hlc.ts'
import type { ConnectionTarget } from '../postgres/connection.ts'
import { Connection, ConnectionLost, ServerError } from '../postgres/connection.ts'
import type { ClosingBlocker } from './closer.ts'
import { closeOnce, readClock } from './closer.ts'

/**
 * Keeps the clock of one shard: brings it to wall time and closes timestamps, for as long as it is elected.
 *
 * Every gateway runs one keeper a shard. They elect one of them by a session advisory lock on the primary: it is held
 * by a connection, so the keeper that dies, or whose link does, gives it up without doing anything.
 *
 * It works as eagerly as the shard is used. The clock itself says so: a value drawn or observed since the last closing
 * is a commit that wants to be closed, or a reader elsewhere that waits for it and has observed its frontier here. An
 * idle shard is closed once a heartbeat.
 */
export interface ClockKeeperOptions {
  readonly shard: ShardName
  /** Where this keeper runs: one beside the primary is preferred, since closing takes three round trips. */
  readonly region: RegionName
  readonly topology: TopologySource
  readonly targetOf: (node: FleetNode) => ConnectionTarget
  readonly clock: Clock
  readonly metrics: Metrics
  readonly onStep: OnStep
  /** The alarm of HZ-C7, once every `blockedAfterMs` while it lasts. */
  readonly onBlocked?: (
    blocker: ClosingBlocker,
    where: { readonly shard: ShardName; readonly blockedMs: number },
  ) => void
  readonly cadence?: ClockCadence
}

export interface ClockCadence {
  /** Between closings while the shard is used. */
  readonly activeMs: number
  /** Between looks at the clock of a shard that is not. */
  readonly quietMs: number
  /** How long after its last use a shard counts as used. */
  readonly activeForMs: number
  readonly heartbeatMs: number
  readonly blockedAfterMs: number
  /** Between attempts to be elected, in the region of the primary. */
  readonly electionMs: number
  /** The same elsewhere; a keeper that was elected elsewhere also steps down after this. */
  readonly farElectionMs: number
}

export const clockCadenceDefault: ClockCadence = {
  activeMs: 5,
  quietMs: 15,
  activeForMs: 1_000,
  heartbeatMs: 1_000,
  blockedAfterMs: 1_000,
  electionMs: 250,
  farElectionMs: 5_000,
}

const connectWithinMs = 5_000
const electionAnswerMs = 10_000
/** Null on a follower: a lock there elects nobody. */
const electionSql = `select case when not pg_is_in_recovery()
  then pg_try_advisory_lock(hashtextextended('holdfast.clock-keeper', 0)) end as elected`

export class ClockKeeper {
  readonly #options: ClockKeeperOptions
  readonly #cadence: ClockCadence

  constructor(options: ClockKeeperOptions) {
    this.#options = options
    this.#cadence = options.cadence ?? clockCadenceDefault
  }

  /**
   * Runs until the signal is aborted; lost servers are waited for. Rejects with `check_failed` when the shard's clock
   * would not survive a crash (HZ-C3): it must not be kept as if it did.
   */
  async run(signal: AbortSignal): Promise<void> {
    const { topology, clock, metrics, shard } = this.#options
    while (!signal.aborted) {
      try {
        await this.#serve(signal)
      } catch (error) {
        if (signal.aborted) return
        if (!(error instanceof ConnectionLost || error instanceof ServerError)) throw error
        metrics.count('clock_keeper_interrupted_total', { shard })
        await topology.refresh().catch(() => undefined)
      }
      await clock.sleep(this.#pauseMs(), signal).catch(() => undefined)
    }
  }

  /** One candidacy: returns when this keeper has stepped down, or when the primary is another node by now. */
  async #serve(signal: AbortSignal): Promise<void> {
    const primary = this.#primary()
    if (primary === undefined) return
    const connection = await Connection.connect(this.#options.targetOf(primary), connectWithinMs)
    try {
      if (await this.#elect(connection, primary, signal)) {
        await requirePermanentClock(connection, this.#options.shard)
        await this.#keep(connection, primary, signal)
      }
    } finally {
      connection.release()
    }
  }

  /** Tries for the lock until it is ours. False when the server is not the primary, or no longer. */
  async #elect(connection: Connection, primary: FleetNode, signal: AbortSignal): Promise<boolean> {
    while (this.#primary()?.id === primary.id) {
      const { rows } = await connection.query<{ elected: boolean | null }>(electionSql, [], electionAnswerMs)
      const elected = rows[0]?.elected
      if (elected === true) return true
      if (elected !== false) return false
      await this.#options.clock.sleep(this.#pauseMs(), signal)
    }
    return false
  }

  async #keep(connection: Connection, primary: FleetNode, signal: AbortSignal): Promise<void> {
    const { clock, metrics, shard, onStep, onBlocked } = this.#options
    const { activeMs, quietMs, activeForMs, heartbeatMs, farElectionMs, blockedAfterMs } = this.#cadence
    const elected = clock.monotonicMs()
    let closed: Hlc = hlcZero
    let closedAt = Number.NEGATIVE_INFINITY
    let usedAt = Number.NEGATIVE_INFINITY
    while (!signal.aborted && this.#primary()?.id === primary.id) {
      const now = clock.monotonicMs()
      if (!this.#isNear() && now - elected > farElectionMs) return
      if ((await readClock(connection)) > closed) usedAt = now
      if (usedAt === now || now - closedAt >= heartbeatMs) {
        const closing = await closeOnce(connection, {
          clock,
          signal,
          blockedAfterMs,
          onStep,
          where: { shard },
          onBlocked: (blocker, blockedMs) => {
            metrics.gauge('clock_closing_blocked_ms', blockedMs, { shard })
            onBlocked?.(blocker, { shard, blockedMs })
          },
        })
        closed = closing.movedWhileWaiting ? hlcZero : closing.closed
        closedAt = clock.monotonicMs()
        metrics.gauge('clock_offset_ms', closing.aheadMs, { shard })
        metrics.gauge('clock_closing_blocked_ms', 0, { shard })
        metrics.observe('clock_closing_ms', closedAt - now, { shard })
      }
      await clock.sleep(clock.monotonicMs() - usedAt < activeForMs ? activeMs : quietMs, signal)
    }
  }

  #primary(): FleetNode | undefined {
    return this.#options.topology.current().shards.get(this.#options.shard)?.primary
  }

  #pauseMs(): number {
    return this.#isNear() ? this.#cadence.electionMs : this.#cadence.farElectionMs
  }

  #isNear(): boolean {
    return this.#primary()?.region === this.#options.region
  }
}

/** HZ-C3: a sequence or table that is not written to the log is reset by a crash, and the clock would go back. */
async function requirePermanentClock(connection: Connection, shard: ShardName): Promise<void> {
  const { rows } = await connection.query<{ name: string }>(
    'select r.name from holdfast.impermanent_relations() r(name)',
  )
  if (rows.length === 0) return
  const names = rows.map(({ name }) => name)
  throw new HoldfastError(
    'check_failed',
    `shard ${shard} has relations that a crash would reset: ${names.join(', ')}`,
    {
      hint: 'make them permanent with alter table or alter sequence ... set logged',
      detail: { shard, relations: names },
    },
  )
}
