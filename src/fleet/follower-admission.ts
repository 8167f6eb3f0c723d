import { HoldfastError } from '../base/errors.ts'
import type { NodeId, ShardName } from '../directory/topology.ts'
import { administer } from './administer.ts'
import { nameRelease, planInstallation } from '../postgres/release.ts'
import { readInstalled } from '../postgres/schema.ts'
import type { Supervisor } from './supervisor.ts'
import type { NodeDocument } from './topology-store.ts'

/**
 * Lets gateways in on a follower once it shows the release of the code that serves (U2). One that has not replayed it would be asked
 * for functions that it does not have. The simple way, a start that waits for every follower, lets one that is slow or down keep
 * the whole fleet from its start; so each keeps gateways out by itself until then, whoever started it.
 */

/** Replay of a release by a follower that streams, which a start waits for: reads are near from the first moment on. */
const replayWithinMs = 60_000
const startPollMs = 20
/** A few rows, while others wait their turn. */
const lookWithinMs = 10_000
const pollMs = 1_000

export class FollowerAdmission {
  readonly #supervisor: Supervisor
  readonly #awaited = new Set<NodeId>()

  constructor(supervisor: Supervisor) {
    this.#supervisor = supervisor
  }

  /** At a start, of a follower that runs. Throws `node_unavailable` of one that was started without being locked out. */
  async atStart(name: ShardName, node: NodeDocument): Promise<void> {
    const { clock, servers, shardServers, release, progress } = this.#supervisor
    const deadline = clock.monotonicMs() + replayWithinMs
    // One that ended meanwhile is brought back as every other.
    while (servers.isRunning(node.id) && !(await this.#admit(node))) {
      if (clock.monotonicMs() <= deadline) {
        await clock.sleep(startPollMs)
        continue
      }
      const told = `${node.id} has not replayed release ${nameRelease(release)}`
      if (!shardServers.isLockedOut(node.id)) {
        throw new HoldfastError('node_unavailable', told, { hint: 'its log says why it does not follow' })
      }
      progress({ step: 'alarm', detail: `${name}: ${told}: no gateway is let in before it has` })
      this.begin(name, node)
      return
    }
  }

  /** Of one that was just started, by who has the turn: at once where it shows the release, else once it does. */
  async admit(name: ShardName, node: NodeDocument): Promise<void> {
    if (!(await this.#admit(node))) this.begin(name, node)
  }

  /** In the background, until it shows the release, ends, or is promoted: then a barrier comes first (F2). */
  begin(name: ShardName, { id }: NodeDocument): void {
    if (this.#awaited.has(id)) return
    this.#awaited.add(id)
    const running = this.#supervisor.run(() => this.#untilAdmitted(name, id))
    void running.catch(() => undefined).finally(() => this.#awaited.delete(id))
  }

  async #untilAdmitted(name: ShardName, id: NodeId): Promise<void> {
    const { clock, closing, servers, shardServers, topology } = this.#supervisor
    const isDue = () => !closing.aborted && servers.isRunning(id) && shardServers.isLockedOut(id)
    const follower = () => {
      const { nodes, primary } = topology.shard(name)
      return nodes.find((one) => one.id === id && id !== primary)
    }
    while (isDue()) {
      await clock.sleep(pollMs, closing).catch(() => undefined)
      const node = follower()
      // Nobody waits for his turn behind one that does not answer.
      if (node === undefined || !(await this.#hasRelease(node))) continue
      await this.#supervisor.exclusively(async () => {
        if (follower() !== undefined && isDue()) await this.#admit(node)
      })
    }
  }

  async #admit(node: NodeDocument): Promise<boolean> {
    const { shardServers } = this.#supervisor
    if (!(await this.#hasRelease(node))) return false
    if (!shardServers.isLockedOut(node.id)) return true
    return shardServers.admit(node).then(
      () => true,
      () => false,
    )
  }

  /** False also of one that does not answer: slow is not lost. */
  async #hasRelease(node: NodeDocument): Promise<boolean> {
    const { shardServers, release } = this.#supervisor
    try {
      const installed = await administer(shardServers.adminTarget(node), readInstalled, lookWithinMs)
      return planInstallation(installed, release).kind === 'none needed'
    } catch {
      return false
    }
  }
}
