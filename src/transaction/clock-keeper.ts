import type { Clock } from '../base/clock.ts'
import { HoldfastError } from '../base/errors.ts'
import type { MetricName, Metrics } from '../base/metrics.ts'
import type { OnStep } from '../base/step.ts'
import type { FleetNode, RegionName, ShardName, TopologySource } from '../directory/topology.ts'
import type { Hlc } from '../hlc/hlc.ts'
import type { ConnectionTarget } from '../postgres/statement.ts'
import { Connection } from '../postgres/connection.ts'
import { ConnectionLost, ServerError } from '../postgres/failure.ts'
import type { ToldBlocker } from './blocked-alarm.ts'
import { tellBlocker } from './blocked-alarm.ts'
import type { CandidateRank } from './clock-election.ts'
import { ClockCandidate, rankOf } from './clock-election.ts'
import { ClockTerm } from './clock-term.ts'
import type { Beat, ClosingBlocker, WallReading } from './closer.ts'
import { Closer } from './closer.ts'
import type { KeeperPace } from './closings.ts'

/**
 * Keeps the clock of one shard: brings it to wall time and closes timestamps, for as long as it is elected.
 *
 * Every gateway runs one keeper a shard. They elect one of them on the primary (`clock-election.ts`), which beats
 * (`clock-term.ts`) until it is lost, the primary is another node, or a better candidate waits.
 *
 * Its own wall clock is the witness of the server's: neither alone can take the clock ahead (C6).
 */
export interface ClockKeeperOptions {
  readonly shard: ShardName
  /** Where this keeper runs: one beside the primary is preferred. */
  readonly region: RegionName
  readonly topology: TopologySource
  readonly targetOf: (node: FleetNode) => ConnectionTarget
  readonly clock: Clock
  readonly metrics: Metrics
  readonly onStep: OnStep
  readonly maxClockOffsetMs: number
  /** What the clock read, at each beat of a shard that is used: it goes on running for longer than a reading counts. */
  readonly onClock?: (shard: { readonly name: ShardName; readonly primary: FleetNode }, clock: Hlc) => void
  /** The alarm of HZ-C7, once `blockedAfterMs` have passed; of the same blocker at intervals that double from there up to a minute. */
  readonly onBlocked?: (blocker: ClosingBlocker, where: BlockedClosing) => void
  /** Its end, once: closings go on. */
  readonly onUnblocked?: (where: BlockedClosing) => void
  /** The alarm of clocks that do not agree, once when it begins. */
  readonly onDisagreement?: (offsetMs: number, where: { readonly shard: ShardName }) => void
  readonly cadence?: ClockCadence
}

/** For how long a shard's closings have waited. */
export interface BlockedClosing {
  readonly shard: ShardName
  readonly blockedMs: number
}

export interface ClockCadence extends KeeperPace {
  readonly blockedAfterMs: number
  /** Between attempts to be elected, of the first in line: beside the primary, and its clock agrees with the server's. */
  readonly electionMs: number
  /** The same of others; a keeper that is not the best there could be also looks for a better one this often. */
  readonly farElectionMs: number
  /** The server ends the session of a keeper that says nothing for this long: several times its longest pause. */
  readonly silentForMs: number
}

export const clockCadenceDefault: ClockCadence = {
  activeMs: 5,
  trailMs: 15,
  quietMs: 100,
  activeForMs: 250,
  heartbeatMs: 1_000,
  blockedAfterMs: 1_000,
  electionMs: 250,
  farElectionMs: 1_000,
  silentForMs: 3_000,
}

/** What only the keeper of a shard's clock sees. */
const keptGauges: readonly MetricName[] = [
  'clock_offset_ms',
  'clock_ahead_ms',
  'closed_timestamp_lag_ms',
  'clock_closing_blocked_ms',
]

const blockedToldEveryMsMax = 60_000
const connectWithinMs = 5_000
const answerWithinMs = 10_000

export class ClockKeeper {
  readonly #options: ClockKeeperOptions
  readonly #cadence: ClockCadence
  #rank: CandidateRank = 1
  #disagrees = false
  #toldBlocker: ToldBlocker | undefined

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
      let pauseMs = this.#cadence.electionMs
      try {
        // Who made way for a better candidate gives it the time to take the place.
        if ((await this.#serve(signal)) === 'stepped down') pauseMs = 2 * this.#cadence.farElectionMs
      } catch (error) {
        if (signal.aborted) return
        if (!(error instanceof ConnectionLost || error instanceof ServerError)) throw error
        metrics.count('clock_keeper_interrupted_total', { shard })
        await topology.refresh().catch(() => undefined)
      }
      await clock.sleep(pauseMs, signal).catch(() => undefined)
    }
  }

  /** One candidacy, and the term that follows when it is elected. */
  async #serve(signal: AbortSignal): Promise<'stepped down' | 'not the primary'> {
    const primary = this.#primary()
    if (primary === undefined) return 'not the primary'
    const connection = await Connection.connect(this.#options.targetOf(primary), connectWithinMs)
    try {
      const candidate = new ClockCandidate(connection, this.#options.clock, answerWithinMs)
      await candidate.endWhenSilentFor(this.#cadence.silentForMs)
      if (!(await this.#elect(candidate, primary, signal))) return 'not the primary'
      await requirePermanentClock(connection, this.#options.shard)
      return await this.#keep(connection, candidate, primary, signal)
    } finally {
      connection.release()
      for (const name of keptGauges) this.#options.metrics.forget(name, { shard: this.#options.shard })
    }
  }

  /** Tries for the lock until it is ours. False when the server is not the primary, or no longer. */
  async #elect(candidate: ClockCandidate, primary: FleetNode, signal: AbortSignal): Promise<boolean> {
    const { clock } = this.#options
    while (this.#primary()?.id === primary.id) {
      const { standing, walls } = await candidate.stand()
      this.#noteWalls(walls)
      if (standing === 'not a primary') return false
      await candidate.announce(standing === 'elected' ? 1 : this.#rank)
      if (standing === 'elected') return true
      const isNext = this.#rank === 3 && !candidate.isBehind
      await clock.sleep(isNext ? this.#cadence.electionMs : this.#cadence.farElectionMs, signal)
    }
    return false
  }

  async #keep(
    connection: Connection,
    candidate: ClockCandidate,
    primary: FleetNode,
    signal: AbortSignal,
  ): Promise<'stepped down' | 'not the primary'> {
    const { clock, metrics, shard, onStep, onClock } = this.#options
    this.#toldBlocker = undefined
    const closer = new Closer(connection, {
      clock,
      onStep,
      where: { shard },
      blockedAfterMs: this.#cadence.blockedAfterMs,
      onBlocked: (blocker, blockedMs) => {
        metrics.gauge('clock_closing_blocked_ms', blockedMs, { shard })
        this.#tellBlocked(blocker, blockedMs)
      },
    })
    const onBeat = (beat: Beat, tookMs: number, goesOn: boolean) => {
      if (goesOn) onClock?.({ name: shard, primary }, beat.clock)
      this.#noteBeat(beat, tookMs, closer)
    }
    const term = new ClockTerm({ connection, closer, clock, pace: this.#cadence, onBeat })
    let lookedMs = clock.monotonicMs()
    let hasSteppedDown = false
    // Beats do not wait for the look: far away it takes as long as many of them. A look that is lost shows in the beats.
    const look = () => {
      if (this.#rank === 3 || clock.monotonicMs() - lookedMs < this.#cadence.farElectionMs) return
      lookedMs = clock.monotonicMs()
      candidate.seesBetter(this.#rank).then(
        (seesBetter) => (hasSteppedDown ||= seesBetter),
        () => undefined,
      )
    }
    const isOver = () => {
      look()
      return hasSteppedDown || this.#primary()?.id !== primary.id
    }
    await term.run(isOver, signal)
    return hasSteppedDown ? 'stepped down' : 'not the primary'
  }

  #noteBeat({ walls }: Beat, tookMs: number, closer: Closer): void {
    const { metrics, shard } = this.#options
    if (walls === undefined) return
    this.#noteWalls(walls)
    metrics.gauge('clock_offset_ms', walls.offsetMs, { shard })
    metrics.gauge('clock_ahead_ms', walls.aheadMs, { shard })
    metrics.gauge('closed_timestamp_lag_ms', walls.lagMs, { shard })
    metrics.observe('clock_closing_ms', tookMs, { shard })
    if (closer.waitedMs >= this.#cadence.blockedAfterMs) return
    metrics.gauge('clock_closing_blocked_ms', 0, { shard })
    this.#tellUnblocked()
  }

  #tellBlocked(blocker: ClosingBlocker, blockedMs: number): void {
    const { clock, shard, onBlocked } = this.#options
    const limits = { firstPauseMs: this.#cadence.blockedAfterMs, pauseMsMax: blockedToldEveryMsMax }
    const nowMs = clock.monotonicMs()
    const { told, isDue } = tellBlocker(this.#toldBlocker, blocker, blockedMs, nowMs, limits)
    this.#toldBlocker = told
    if (isDue) onBlocked?.(blocker, { shard, blockedMs: nowMs - told.sinceMs })
  }

  #tellUnblocked(): void {
    const { clock, shard, onUnblocked } = this.#options
    if (this.#toldBlocker === undefined) return
    const blockedMs = clock.monotonicMs() - this.#toldBlocker.sinceMs
    this.#toldBlocker = undefined
    onUnblocked?.({ shard, blockedMs })
  }

  #noteWalls(walls: Pick<WallReading, 'offsetMs' | 'uncertainMs'>): void {
    const { shard, maxClockOffsetMs, onDisagreement, region } = this.#options
    this.#rank = rankOf(this.#primary()?.region === region, walls, maxClockOffsetMs)
    const disagrees = this.#rank === 1
    if (disagrees && !this.#disagrees) onDisagreement?.(walls.offsetMs, { shard })
    this.#disagrees = disagrees
  }

  #primary(): FleetNode | undefined {
    return this.#options.topology.current().shards.get(this.#options.shard)?.primary
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
