import { HoldfastError } from '../base/errors.ts'
import type { NodeId, ShardName } from '../directory/topology.ts'
import { ConnectionLost, ServerError } from '../postgres/failure.ts'
import { sqlState } from '../postgres/sqlstate.ts'
import { bringBack } from './node-restart.ts'
import { takeUpEpoch } from './opening.ts'
import type { Supervisor } from './supervisor.ts'
import type { NodeDocument, ShardDocument } from './topology-store.ts'
import { requireNoLater } from './upgrade.ts'

/**
 * What a start goes on without (V10). The simple way, a fleet that starts whole or not at all, makes one lost disk an outage of
 * every shard, and takes away the supervisor that the failover of that shard needs.
 *
 * Left out is a shard whose primary's server does not start, or fails in what a start asks and does there, or whose barrier does not
 * pass in its time, and a follower whose server does not start. The shard stays closed in the topology, its primary keeps gateways out (F2), and a release is installed on all
 * shards or on none. Each is brought back in the background as one that ended by itself, until it is back or a failover took its
 * place.
 */
export class LeftOut {
  readonly #supervisor: Supervisor
  /** Why. */
  readonly #shards = new Map<ShardName, unknown>()
  readonly #followers = new Map<NodeId, { readonly name: ShardName; readonly why: unknown }>()

  constructor(supervisor: Supervisor) {
    this.#supervisor = supervisor
  }

  has(name: ShardName): boolean {
    return this.#shards.has(name)
  }

  /**
   * Does a part of what a start does on a shard, and gives what came of it; undefined where it failed. Throws what fails for another
   * reason than one of that shard alone.
   */
  async unlessFails<T>(name: ShardName, part: () => Promise<T>): Promise<T | undefined> {
    try {
      return await part()
    } catch (error) {
      if (!isOfOnePlace(error)) throw error
      this.#shards.set(name, error)
      return undefined
    }
  }

  /** The same for what starts a follower. */
  async unlessFollowerFails(name: ShardName, { id }: NodeDocument, start: () => Promise<unknown>): Promise<void> {
    const { servers } = this.#supervisor
    try {
      await start()
    } catch (error) {
      if (!isOfOnePlace(error)) throw error
      // What was only half done after its start is done when it is brought back.
      await servers.stop(id, 'immediate')
      this.#followers.set(id, { name, why: error })
    }
  }

  /** Where no server of the fleet runs, nobody is served and nobody could be promoted: throws why the first one does not start. */
  requireSomebody(): void {
    const { topology, servers } = this.#supervisor
    const nodes = Object.values(topology.document.shards).flatMap((shard) => shard.nodes)
    if (nodes.some(({ id }) => servers.isRunning(id))) return
    for (const why of this.#shards.values()) throw why
  }

  /**
   * Asks the followers of a shard that is down for its release, and for its epoch: each of them may be behind, so what the furthest
   * has is what the shard has. Gives the release that it is to be upgraded from, if it is. Throws `release_newer` and
   * `upgrade_failed`, as no start passes over either.
   */
  async askFollowers(name: ShardName): Promise<string | undefined> {
    const { topology, servers } = this.#supervisor
    const shard = topology.shard(name)
    if (shard.promotion !== undefined) return undefined
    const found: (string | undefined)[] = []
    for (const { id } of shard.nodes.filter((node) => node.id !== shard.primary && servers.isRunning(node.id))) {
      try {
        await takeUpEpoch(this.#supervisor, name, id)
        found.push(await requireNoLater(this.#supervisor, name, topology.shard(name), id))
      } catch (error) {
        if (!isOfOnePlace(error)) throw error
      }
    }
    // One that has the release of this code shows that the shard does.
    return found.includes(undefined) ? undefined : found[0]
  }

  /** Before a release is installed, on the shards that have another one: all of them are there, or none is changed. */
  requireNothing(installed: string): void {
    const [shard] = this.#shards
    const [follower] = this.#followers
    if (shard === undefined && follower === undefined) return
    const [name, what, lost, why] =
      shard === undefined
        ? ([
            follower?.[1].name,
            `its follower ${follower?.[0]} does not start`,
            'that follower',
            follower?.[1].why,
          ] as const)
        : ([shard[0], 'it does not come up', 'its primary', shard[1]] as const)
    throw new HoldfastError('upgrade_blocked', `${name} cannot be upgraded: ${what}: ${reasonOf(why)}`, {
      hint: `bring ${lost} back, with the data that it had; or, where release ${installed} leaves out what does not come up, start the fleet with that, fail the shard over or restore it (holdfast failover ${name} --what-if), stop the fleet, and start this release`,
      detail: { shard: name },
      cause: why,
    })
  }

  /** Tells what is left out, and what can be done; from now on the topology has it closed. */
  async tell(): Promise<void> {
    const { topology, progress } = this.#supervisor
    for (const [name, why] of this.#shards) {
      const shard = topology.shard(name)
      await topology.replaceShard(name, { ...shard, state: shard.state === 'lost' ? 'lost' : 'fenced' })
      const way = wayOf(name, shard)
      progress({
        step: 'alarm',
        detail: `${name} takes no traffic, and the fleet starts without it; if it does not come back: ${way}. ${reasonOf(why)}`,
      })
    }
    for (const [id, { name, why }] of this.#followers) {
      progress({ step: 'alarm', detail: `${name}: the fleet starts without ${id}: ${reasonOf(why)}` })
    }
  }

  /** Has what does not run come back by itself, once its end would be heard of. */
  bringBack(): void {
    const { topology, servers } = this.#supervisor
    const shards = Object.entries(topology.document.shards) as [ShardName, ShardDocument][]
    for (const [name, { nodes, primary }] of shards) {
      for (const { id } of nodes) {
        if (servers.isRunning(id) && !(id === primary && this.has(name))) continue
        void this.#supervisor.run(() => bringBack(this.#supervisor, id)).catch(() => undefined)
      }
    }
  }
}

/** What can be done for a shard that does not come back. A promotion has chosen: no other one is safe without its primary. */
function wayOf(name: ShardName, { nodes, primary, promotion }: ShardDocument): string {
  const others = nodes.flatMap(({ id }) => (id === primary ? [] : [id])).join(', ')
  if (promotion !== undefined) {
    const kept = others === '' ? '' : `, and gives up what ${others} has`
    return `bring the data directory of ${primary} back, and its promotion goes on by itself; a restore from the archive is the last resort${kept}`
  }
  return others === '' ? 'restore it from its archive' : `holdfast failover ${name} --what-if`
}

/** Of one server, its directory or the way to it. What is wrong with the configuration, or with the whole machine, is not. */
function isOfOnePlace(error: unknown): boolean {
  if (error instanceof HoldfastError) {
    // A branch in doubt holds a table that the configuration changes: a start with the one before settles it.
    if (error.cause instanceof ServerError && error.cause.sqlState === sqlState.lockNotAvailable) return false
    return ['server_failed', 'node_unavailable', 'directory_not_writable'].includes(error.code)
  }
  return error instanceof ConnectionLost || error instanceof ServerError || isOfFiles(error)
}

/** `ENOENT` of a data directory that is gone, `EIO` of a disk that fails. */
function isOfFiles(error: unknown): boolean {
  return error instanceof Error && 'code' in error && typeof error.code === 'string' && /^E[A-Z0-9]+$/.test(error.code)
}

function reasonOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}
