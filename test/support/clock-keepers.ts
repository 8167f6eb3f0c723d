import type { Clock } from '../../src/base/clock.ts'
import { systemClock } from '../../src/base/clock.ts'
import { silentMetrics } from '../../src/base/metrics.ts'
import { noStep } from '../../src/base/step.ts'
import type { RegionName } from '../../src/directory/topology.ts'
import type { Connection } from '../../src/postgres/connection.ts'
import type { ClockKeeperOptions } from '../../src/transaction/clock-keeper.ts'
import { ClockKeeper, clockCadenceDefault } from '../../src/transaction/clock-keeper.ts'
import { payrollShard } from './payroll-plan.ts'
import type { TestShards } from './shards.ts'

/** The keepers of one shard's clock, each under the name of a gateway of its own. */
export class ClockKeepers {
  readonly #shards: TestShards
  #running: { readonly name: string; readonly stop: AbortController; readonly ended: Promise<void> }[] = []

  constructor(shards: TestShards) {
    this.#shards = shards
  }

  run(name: string, options: Partial<ClockKeeperOptions> = {}): void {
    const stop = new AbortController()
    const keeper = new ClockKeeper({
      shard: payrollShard,
      region: 'eu-west' as RegionName,
      topology: this.#shards.topology,
      targetOf: (node) => ({ ...this.#shards.targetOf(node), applicationName: name }),
      clock: systemClock,
      metrics: silentMetrics,
      onStep: noStep,
      maxClockOffsetMs: 500,
      cadence: keeperCadence,
      ...options,
    })
    this.#running.push({ name, stop, ended: keeper.run(stop.signal) })
  }

  /** Ends them all, or the one of that name. */
  async stop(name?: string): Promise<void> {
    const stopped = this.#running.filter((one) => name === undefined || one.name === name)
    this.#running = this.#running.filter((one) => !stopped.includes(one))
    for (const { stop } of stopped) stop.abort()
    await Promise.all(stopped.map(({ ended }) => ended))
  }
}

export const keeperCadence = {
  ...clockCadenceDefault,
  activeMs: 1,
  trailMs: 1,
  electionMs: 10,
  farElectionMs: 20,
  heartbeatMs: 50,
  blockedAfterMs: 20,
  // However slow the machine is.
  silentForMs: 60_000,
}

/** A wall clock that is off by so much; for the rest the system's. */
export function wallOffBy(offsetMs: () => number): Clock {
  return { ...systemClock, wallMs: () => systemClock.wallMs() + offsetMs() }
}

export interface ElectedKeeper {
  readonly name: string
  readonly pid: number
}

const lockHeld = `l.locktype = 'advisory' and l.granted and ((l.classid::bigint << 32) | l.objid::bigint) = hashtextextended($1, 0)`

/** Who keeps the clock, by a look at the locks of the primary. */
export async function electedKeeper(admin: Connection): Promise<ElectedKeeper | undefined> {
  const { rows } = await admin.query<ElectedKeeper>(
    `select a.application_name as name, a.pid from pg_locks l join pg_stat_activity a using (pid) where ${lockHeld}`,
    ['holdfast.clock-keeper'],
  )
  return rows[0]
}

/** The last that it did was the look before it sleeps. */
export async function keeperSleeps(admin: Connection): Promise<boolean> {
  const { rowCount } = await admin.query(
    `select from pg_locks l join pg_stat_activity a using (pid)
     where ${lockHeld} and a.state = 'idle' and a.query like 'select last_value%'`,
    ['holdfast.clock-keeper'],
  )
  return rowCount > 0
}
