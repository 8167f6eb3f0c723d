import { stat } from 'node:fs/promises'
import { join } from 'node:path'
import { isHoldfastError } from '../base/errors.ts'
import type { NodeId, ShardName } from '../directory/topology.ts'
import { seeFollowers } from './follower-sights.ts'
import type { Stall } from './following.ts'
import { judgeFollowing, stalledForMs } from './following.ts'
import { canAcknowledge, ensureAcknowledged, retireFollowers } from './retirement.ts'
import type { Supervisor } from './supervisor.ts'
import type { NodeDocument, ShardDocument } from './topology-store.ts'

/**
 * Finds the followers that will not follow again by themselves, and has each place built anew (V9): those whose primary no
 * longer keeps what they lack, and those whose data directory is gone or that no server starts on. Left alone, each would stay
 * in the names and in the count of a promotion for good, and keep the fleet from its next start.
 */

const everyMs = 5_000
/** What keeps a server from starting may be over a moment later; so often in a row it is not. */
const startsMax = 5
const startPauseMs = 1_000
const pollMs = 100
/** One that somebody holds where it stalled never turns out to be either: a start goes on without knowing. */
const knownWithinMs = stalledForMs + 10_000

interface Looked {
  readonly lost: readonly NodeDocument[]
  /** Those that their primary streams to. */
  readonly following: readonly NodeDocument[]
}

export class LostFollowers {
  readonly #supervisor: Supervisor
  /** Why each of them is lost. One that streams all the same is not. */
  readonly #lost = new Map<NodeId, string>()
  readonly #stalls = new Map<NodeId, Stall>()

  constructor(supervisor: Supervisor) {
    this.#supervisor = supervisor
  }

  /** Runs until the fleet stops. */
  async watch(): Promise<void> {
    const { clock, closing, topology } = this.#supervisor
    const watch = async (name: ShardName) => {
      while (!closing.aborted) {
        await this.look(name).catch((error: unknown) => this.#tell('retirement failed', `${name}: ${reasonOf(error)}`))
        await clock.sleep(everyMs, closing).catch(() => undefined)
      }
    }
    await Promise.all((Object.keys(topology.document.shards) as ShardName[]).map(watch))
  }

  /**
   * Looks once at a shard that is open, and retires what is lost once the others can show that nothing would be lost with it.
   * Throws what keeps it from that.
   */
  async look(name: ShardName): Promise<void> {
    // A primary that does not answer is the business of others.
    const seen = await this.#look(name).catch(() => undefined)
    if (seen === undefined || seen.lost.length === 0) return
    await this.#supervisor.exclusively(async () => {
      // Once more, now that nobody changes the shard.
      const looked = await this.#look(name)
      if (looked.lost.length > 0 && this.#canSpare(name, looked)) await this.#retire(name, looked.lost)
    })
    this.#supervisor.rebuilding.begin(name)
  }

  /**
   * At a start, with the servers up as far as they come up and nobody let in: retires what is lost, and where nobody is left who
   * could acknowledge a commit, fills the place. Throws what keeps it from that.
   */
  async replace(name: ShardName): Promise<void> {
    const lost = await this.#untilKnown(name)
    if (lost.length > 0) await this.#retire(name, lost)
    // Also where the last one was retired before: its successor may not have been built when the fleet stopped.
    await ensureAcknowledged(this.#supervisor, name, this.#supervisor.topology.shard(name))
  }

  /**
   * Of a shard that takes no traffic before its barrier, in its turn: retires what is lost where nobody else could acknowledge that
   * barrier. No promotion was begun, so its primary has every commit that was acknowledged. Throws what keeps it from that.
   */
  async retireAwaited(name: ShardName): Promise<void> {
    const seen = await this.#look(name).catch(() => undefined)
    if (seen === undefined || seen.lost.length === 0) return
    if (!canAcknowledge(this.#supervisor.shardServers, name, this.#without(name, seen.lost)))
      await this.#retire(name, seen.lost)
  }

  /**
   * Starts a follower, as often as it takes to know whether it will ever start. False where not: then it is lost. Throws what may
   * be over another time.
   */
  async start(node: NodeDocument, start: () => Promise<void>): Promise<boolean> {
    const { clock, closing } = this.#supervisor
    for (let starts = 1; ; starts++) {
      try {
        await start()
        this.#lost.delete(node.id)
        return true
      } catch (error) {
        const why = await this.#whyNever(node, error, starts)
        if (why !== undefined) {
          this.#lost.set(node.id, why)
          return false
        }
        if (!hasEnded(error)) throw error
      }
      await clock.sleep(startPauseMs, closing)
    }
  }

  async #whyNever(node: NodeDocument, error: unknown, starts: number): Promise<string | undefined> {
    const dataDir = this.#supervisor.servers.dataDirOf(node.folder)
    const isGone = await stat(join(dataDir, 'global', 'pg_control')).then(() => false, saysGone)
    if (isGone) return `its data directory ${dataDir} is gone`
    return hasEnded(error) && starts >= startsMax ? `its server ended at each of ${starts} starts` : undefined
  }

  /** What stalls at a start is waited for: its primary may be about to stream to it. */
  async #untilKnown(name: ShardName): Promise<readonly NodeDocument[]> {
    const { clock, closing, topology } = this.#supervisor
    const deadline = clock.monotonicMs() + knownWithinMs
    for (;;) {
      const { lost } = await this.#look(name)
      const isStalled = topology.shard(name).nodes.some(({ id }) => this.#stalls.has(id))
      if (!isStalled || clock.monotonicMs() > deadline) return lost
      await clock.sleep(pollMs, closing)
    }
  }

  async #look(name: ShardName): Promise<Looked> {
    const { topology, servers, shardServers, clock } = this.#supervisor
    const shard = topology.shard(name)
    if (shard.promotion !== undefined || !servers.isRunning(shard.primary)) {
      this.#forgetStalls(shard)
      return { lost: [], following: [] }
    }
    const sights = await seeFollowers(shardServers, shard).catch((error: unknown) => {
      this.#forgetStalls(shard)
      throw error
    })
    const following: NodeDocument[] = []
    for (const { node, ...sight } of sights) {
      // What was sent to one that has ended goes on for a moment.
      const isStreaming = sight.isStreaming && servers.isRunning(node.id)
      const judged = judgeFollowing({ ...sight, isStreaming }, this.#stalls.get(node.id), clock.monotonicMs())
      this.#stalls.delete(node.id)
      if (judged.kind === 'stalled') this.#stalls.set(node.id, judged.stall)
      if (judged.kind === 'lost') this.#lost.set(node.id, judged.why)
      if (judged.kind !== 'follows') continue
      this.#lost.delete(node.id)
      following.push(node)
    }
    return { lost: shard.nodes.filter(({ id }) => this.#lost.has(id)), following }
  }

  /** Nobody was there to ask: how long they asked in vain begins anew. */
  #forgetStalls({ nodes }: ShardDocument): void {
    for (const { id } of nodes) this.#stalls.delete(id)
  }

  /** Whether the shard takes traffic, and somebody is there for its barrier where anybody is left who counts. */
  #canSpare(name: ShardName, { lost, following }: Looked): boolean {
    const { topology, shardServers } = this.#supervisor
    const shard = topology.shard(name)
    const isAlone = shard.durability === 'local' || !canAcknowledge(shardServers, name, this.#without(name, lost))
    return shard.state === 'open' && (isAlone || following.some((node) => shardServers.counts(name, shard, node)))
  }

  #without(name: ShardName, lost: readonly NodeDocument[]): ShardDocument {
    const shard = this.#supervisor.topology.shard(name)
    return { ...shard, nodes: shard.nodes.filter((node) => !lost.includes(node)) }
  }

  async #retire(name: ShardName, lost: readonly NodeDocument[]): Promise<void> {
    for (const { id } of lost)
      this.#tell('alarm', `${name}: ${id} is lost: ${this.#lost.get(id)}; its place is built anew`)
    await retireFollowers(this.#supervisor, name, lost)
    for (const { id } of lost) {
      this.#lost.delete(id)
      this.#stalls.delete(id)
    }
  }

  #tell(step: string, detail: string): void {
    this.#supervisor.progress({ step, detail })
  }
}

/** By itself, in the middle of its start: waiting longer would not have helped. */
function hasEnded(error: unknown): boolean {
  return isHoldfastError(error, 'server_failed') && error.detail['ended'] === true
}

/** A disk that cannot be read, or that somebody else owns for now, may have it all. */
function saysGone(error: NodeJS.ErrnoException): boolean {
  return error.code === 'ENOENT' || error.code === 'ENOTDIR'
}

function reasonOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}
