import type { Clock } from '../base/clock.ts'
import type { Progress } from '../base/progress.ts'
import type { OnStep } from '../base/step.ts'
import type { NodeId, ShardName } from '../directory/topology.ts'
import { folderOf, nodeId } from './node-names.ts'
import type { FleetServers } from './servers.ts'
import type { ShardServers } from './shard-servers.ts'
import { nodeOf } from './shard-servers.ts'
import type { NodeDocument, RetiredNode, ShardDocument, TopologyStore } from './topology-store.ts'

/**
 * Builds what did not come along in a promotion, or was lost (V9), anew, while its shard takes traffic. The topology says what is left, so a
 * supervisor that is killed goes on when it starts again; a build that was broken off begins from nothing.
 *
 * A new follower is in the topology before commits wait for it. The other way round a promotion could overlook the only one
 * that acknowledged a commit.
 */
export interface RebuildingParts {
  readonly topology: () => TopologyStore
  readonly servers: FleetServers
  readonly shardServers: ShardServers
  readonly clock: Clock
  readonly progress: Progress
  readonly onStep: OnStep
  /** Aborted when the fleet stops. */
  readonly closing: AbortSignal
  /** Runs one change of servers or topology at a time. */
  readonly exclusively: <T>(change: () => Promise<T>) => Promise<T>
}

const retryAfterMs = 1_000

export class Rebuilding {
  readonly #parts: RebuildingParts
  readonly #running = new Map<ShardName, Promise<void>>()
  /** A node is built by one at a time: by the background, or by a promotion that cannot open without it. */
  readonly #builds = new Map<NodeId, { readonly abort: AbortController; readonly ended: Promise<unknown> }>()

  constructor(parts: RebuildingParts) {
    this.#parts = parts
  }

  /** Goes on in the background until nothing of the shard is left to be built, or it closes. */
  begin(name: ShardName): void {
    if (this.#running.has(name)) return
    const running = this.#run(name).finally(() => {
      this.#running.delete(name)
      // A failover may have retired more between the last look and now.
      if (this.#next(name) !== undefined) this.begin(name)
    })
    this.#running.set(name, running)
  }

  /** Resolves when nothing is built any more, e.g. because the fleet stops. */
  async ended(): Promise<void> {
    await Promise.all(this.#running.values())
  }

  /** Builds the successor of one node from the primary of the document; gives the document that has it. */
  async rebuild(
    name: ShardName,
    document: ShardDocument,
    retired: RetiredNode,
    until?: AbortSignal,
  ): Promise<ShardDocument> {
    const { progress } = this.#parts
    const id = nodeId(name, retired.successor)
    progress({ step: 'rebuild', detail: `${id} in ${retired.node.region}` })
    // Nothing is awaited between the last look and the entry below: whoever comes then waits for this one's end.
    while (this.#builds.has(id)) await this.#interrupt(id)
    const abort = new AbortController()
    const signal = until === undefined ? abort.signal : AbortSignal.any([abort.signal, until])
    const building = this.#build(name, document, retired, signal)
    const build = { abort, ended: building.catch(() => undefined) }
    this.#builds.set(id, build)
    let node: NodeDocument
    try {
      node = await building
    } finally {
      if (this.#builds.get(id) === build) this.#builds.delete(id)
    }
    return {
      ...document,
      nodes: [...document.nodes, node],
      retired: document.retired?.filter(({ successor }) => successor !== retired.successor),
    }
  }

  async #build(
    name: ShardName,
    document: ShardDocument,
    { node: { region }, successor }: RetiredNode,
    signal: AbortSignal,
  ): Promise<NodeDocument> {
    const { shardServers } = this.#parts
    const node = await shardServers.place(nodeId(name, successor), region, folderOf(name, successor))
    await shardServers.buildFollower(nodeOf(document, document.primary), node, signal)
    return node
  }

  /** Removes what the retired node left. */
  async remove({ node }: RetiredNode): Promise<void> {
    await this.#parts.servers.removeDirectory(node.folder)
  }

  /** Gives one up, with what it left and what was built of its successor. */
  async forget(name: ShardName, retired: RetiredNode): Promise<void> {
    const { servers } = this.#parts
    const id = nodeId(name, retired.successor)
    await this.#interrupt(id)
    await servers.stop(id, 'immediate')
    await servers.removeDirectory(folderOf(name, retired.successor))
    await servers.removeDirectory(`${folderOf(name, retired.successor)}.building`)
    await this.remove(retired)
  }

  async #interrupt(id: NodeId): Promise<void> {
    const build = this.#builds.get(id)
    build?.abort.abort()
    await build?.ended
  }

  #next(name: ShardName): RetiredNode | undefined {
    const shard = this.#parts.topology().document.shards[name]
    if (this.#parts.closing.aborted || shard === undefined || shard.state !== 'open') return undefined
    // Without one that counts, commits wait and the shard does not open again.
    const counts = ({ node }: RetiredNode) => this.#parts.shardServers.counts(name, shard, node)
    return shard.retired?.find(counts) ?? shard.retired?.[0]
  }

  async #run(name: ShardName): Promise<void> {
    const { progress, clock, closing } = this.#parts
    for (let next = this.#next(name); next !== undefined; next = this.#next(name)) {
      try {
        await this.#replace(name, next)
      } catch (error) {
        const why = error instanceof Error ? error.message : String(error)
        progress({ step: 'rebuild failed', detail: `${nodeId(name, next.successor)}: ${why}` })
        await clock.sleep(retryAfterMs, closing).catch(() => undefined)
      }
    }
  }

  async #replace(name: ShardName, retired: RetiredNode): Promise<void> {
    const { topology, servers, shardServers, exclusively, closing, onStep } = this.#parts
    const before = topology().shard(name)
    const built = await this.rebuild(name, before, retired, closing)
    await exclusively(async () => {
      const now = topology().shard(name)
      const id = nodeId(name, retired.successor)
      if (now.nodes.some((node) => node.id === id)) return
      if (now.epoch !== before.epoch || now.primary !== before.primary || now.state !== 'open') {
        // Its source is no primary any more, and what it has may not be in the new history.
        await servers.stop(id, 'immediate')
        await servers.removeDirectory(folderOf(name, retired.successor))
        return
      }
      const nodes = [...now.nodes, ...built.nodes.slice(-1)]
      const document = {
        ...now,
        nodes,
        retired: now.retired?.filter(({ successor }) => successor !== retired.successor),
      }
      // Before the topology forgets it: nobody would come for it again.
      await this.remove(retired)
      await onStep('promotion place', { shard: name })
      await topology().replaceShard(name, document)
      await onStep('opening names', { shard: name })
      await shardServers.applySynchronousNames(name, document)
    })
  }
}
