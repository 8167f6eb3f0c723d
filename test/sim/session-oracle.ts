import type { TransactionId } from '../../src/directory/topology.ts'
import type { Hlc } from '../../src/hlc/hlc.ts'
import type { GlobalTransaction } from '../../src/reading/read-store.ts'
import type { ShardWorld, Shown } from './session-world.ts'

/** What a session has seen, beside its token: `shard id`. */
export interface Memory {
  /** What it wrote or was shown. */
  seen: Set<string>
  /** Everything that happened before, on any shard. */
  past: Set<string>
}

export const nothingSeen = (): Memory => ({ seen: new Set(), past: new Set() })

/** A promise that was broken: what an answer should have shown, or what was told as lost and is there. */
export class Broken extends Error {
  constructor(promise: string, missing: readonly string[]) {
    super(`${promise}: missing ${missing.join(', ')}`)
  }
}

/** Knows what everybody has written and been shown, which tokens only bound. Throws `Broken`. */
export class Oracle {
  /** Of several shards, the home first. */
  readonly globals = new Map<TransactionId, GlobalTransaction>()
  readonly #pastOf = new Map<TransactionId, ReadonlySet<string>>()
  /** Commits that a fork cut off; a causal past that leads over them is broken for everyone. */
  readonly #cutOff = new Set<string>()
  readonly #acknowledged = new Map<string, Hlc>()

  wrote(memory: Memory, id: TransactionId, timestamp: Hlc, worlds: readonly ShardWorld[]): void {
    for (const world of worlds) {
      memory.seen.add(keyOf(world, id))
      memory.past.add(keyOf(world, id))
      this.#acknowledged.set(keyOf(world, id), timestamp)
    }
    this.#pastOf.set(id, new Set(memory.past))
    const shards = worlds.map(({ name }) => name)
    if (shards.length > 1) this.globals.set(id, { transactionId: id, commitTimestamp: timestamp, shards })
  }

  wasShown(memory: Memory, world: ShardWorld, { visible }: Shown): void {
    for (const id of visible) {
      memory.seen.add(keyOf(world, id))
      for (const key of this.#pastOf.get(id) ?? []) memory.past.add(key)
    }
  }

  /** Notes what is gone after `fork`. */
  noteCutOff(world: ShardWorld, fork: () => void): void {
    const before = world.log
    fork()
    const kept = new Set(world.log.map((record) => ('id' in record ? record.id : undefined)))
    for (const record of before) {
      if ('id' in record && !kept.has(record.id)) this.#cutOff.add(keyOf(world, record.id))
    }
  }

  mustShowSeen({ seen }: Memory, world: ShardWorld, shown: Shown, by: string): void {
    this.#mustShow(`read your writes and monotonic reads, ${by}`, seen, world, shown)
  }

  mustShowPast({ past }: Memory, world: ShardWorld, shown: Shown, by: string): void {
    const keys = [...past].filter((key) => !this.#cutOff.has(key))
    this.#mustShow(`causal, ${by}`, keys, world, shown)
  }

  /** Of those that are not later than a timestamp, or of all. */
  mustShowAcknowledged(promise: string, world: ShardWorld, shown: Shown, upTo?: Hlc): void {
    const due = [...this.#acknowledged].filter(([, timestamp]) => upTo === undefined || timestamp <= upTo)
    const keys = due.flatMap(([key]) => (this.#cutOff.has(key) ? [] : [key]))
    this.#mustShow(promise, keys, world, shown)
  }

  /** Transactions of several shards, on all of them or on none. */
  mustBeWhole(shown: ReadonlyMap<ShardWorld, Shown>): void {
    const worlds = [...shown.keys()]
    const isShown = (world: ShardWorld, id: TransactionId) => shown.get(world)?.visible.has(id) === true
    for (const id of this.globals.keys()) {
      if (worlds.some((world) => this.#cutOff.has(keyOf(world, id)))) continue
      const without = worlds.filter((world) => !isShown(world, id))
      if (without.length === 0 || without.length === worlds.length) continue
      throw new Broken(
        'a snapshot is not fractured',
        without.map((world) => keyOf(world, id)),
      )
    }
  }

  mustBeGone(told: string, world: ShardWorld, ids: readonly TransactionId[]): void {
    const there = ids.filter((id) => world.log.some((record) => record.kind === 'commit' && record.id === id))
    if (there.length > 0) throw new Broken(`${told}, and it is there`, there)
  }

  #mustShow(promise: string, keys: Iterable<string>, world: ShardWorld, { visible }: Shown): void {
    const shown = new Set([...visible].map((id) => keyOf(world, id)))
    const missing = [...keys].filter((key) => key.startsWith(`${world.name} `) && !shown.has(key))
    if (missing.length > 0) throw new Broken(promise, missing)
  }
}

const keyOf = (world: ShardWorld, id: TransactionId) => `${world.name} ${id}`
