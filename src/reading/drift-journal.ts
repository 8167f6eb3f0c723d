import type { Clock } from '../base/clock.ts'
import type { FleetNode, RegionName, ShardName, TopologySource } from '../directory/topology.ts'
import type { ConnectionTarget } from '../postgres/statement.ts'
import type { ConnectionPools } from '../postgres/pools.ts'
import * as store from './drift-store.ts'

/** A read that was declared local, and was answered in another region. */
export interface Drift {
  readonly shard: ShardName
  readonly route: string
  readonly to: RegionName
}

/** What was noted of one route since it was written last. */
export interface NotedDrift extends Drift {
  readonly reads: number
  readonly firstMs: number
  readonly lastMs: number
}

interface JournalParts {
  readonly region: RegionName
  readonly topology: TopologySource
  readonly pools: ConnectionPools
  readonly targetOf: (node: FleetNode) => ConnectionTarget
  readonly clock: Clock
}

/** A screen that drifts does so with every click: its row is written once for all of these. */
const everyMs = 1_000
/** While a shard takes no writes. What was noted stays. */
const againMs = 10_000
const writeWithinMs = 5_000

/**
 * Keeps, on the shard that was read, which routes left their region although they were declared local (R10, R11).
 *
 * Noting is a count in memory. What has gathered is written in the background, a statement for each shard and second,
 * over the connections of services: no read waits for it, or for a connection that it has. How much can gather is
 * bounded by routes, regions and shards. What was not written yet goes with a gateway that is killed; a statement whose reply
 * was lost counts twice. That a route drifts is told by its next read.
 */
export class DriftJournal {
  readonly #parts: JournalParts
  readonly #noted = new Map<ShardName, Map<string, NotedDrift>>()
  readonly #closing = new AbortController()
  #writing: Promise<void> | undefined

  constructor(parts: JournalParts) {
    this.#parts = parts
  }

  note(drift: Drift): void {
    const nowMs = this.#parts.clock.wallMs()
    this.#add({ ...drift, reads: 1, firstMs: nowMs, lastMs: nowMs })
    this.#writing ??= this.#write()
  }

  /** Writes what is left, once. */
  async close(): Promise<void> {
    this.#closing.abort()
    await this.#writing
  }

  #add(drift: NotedDrift): void {
    const ofShard = this.#noted.get(drift.shard) ?? new Map<string, NotedDrift>()
    this.#noted.set(drift.shard, ofShard)
    const key = JSON.stringify([drift.route, drift.to])
    const known = ofShard.get(key)
    ofShard.set(key, {
      ...drift,
      reads: drift.reads + (known?.reads ?? 0),
      firstMs: Math.min(drift.firstMs, known?.firstMs ?? drift.firstMs),
      lastMs: Math.max(drift.lastMs, known?.lastMs ?? drift.lastMs),
    })
  }

  async #write(): Promise<void> {
    const { clock } = this.#parts
    for (let pauseMs = everyMs; this.#noted.size > 0; ) {
      await clock.sleep(pauseMs, this.#closing.signal).catch(() => undefined)
      const isLast = this.#closing.signal.aborted
      const taken = [...this.#noted].map(([shard, drifts]) => ({ shard, drifts: [...drifts.values()] }))
      this.#noted.clear()
      const written = await Promise.all(taken.map(({ shard, drifts }) => this.#writeOn(shard, drifts)))
      if (isLast) break
      for (const drift of taken.flatMap(({ drifts }, index) => (written[index] ? [] : drifts))) this.#add(drift)
      pauseMs = written.every(Boolean) ? everyMs : againMs
    }
    // In one go with the last look at what was noted: who notes next begins anew.
    this.#writing = undefined
  }

  /** False when it is not known to be written. */
  async #writeOn(shard: ShardName, drifts: readonly NotedDrift[]): Promise<boolean> {
    const { region, topology, pools, targetOf } = this.#parts
    const known = topology.current().shards.get(shard)
    if (known?.state !== 'open') return false
    try {
      const [outcome] = await pools.durableFlight(
        targetOf(known.primary),
        [store.noteDrifts(region, drifts)],
        writeWithinMs,
      )
      return outcome?.ok === true
    } catch {
      return false
    }
  }
}
