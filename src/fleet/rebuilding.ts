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
  /** Aborted when the fleet stops: every build is given up, whoever it was begun by. */
  readonly closing: AbortSignal
  /** Runs one change of servers or topology at a time. */
  readonly exclusively: <T>(change: () => Promise<T>) => Promise<T>
}

/** Streams from the primary that it was built from, and is in no topology yet. */
export interface Built {
  readonly node: NodeDocument
  /** Whose place it takes. */
  readonly retired: RetiredNode
}

interface Build {
  readonly document: ShardDocument
  readonly abort: AbortController
  readonly built: Promise<Built>
  ready: Built | undefined
}

const retryAfterMs = 1_000

export class Rebuilding {
  readonly #parts: RebuildingParts
  readonly #running = new Map<ShardName, Promise<void>>()
  /**
   * A node is built by one at a time: by the background, or by who cannot open its shard without it. What was built stays until it is
   * placed or given up: whoever begins it anew takes its place from under who would place it.
   */
  readonly #builds = new Map<NodeId, Build>()
  readonly #placed = new WeakMap<Built, ShardDocument>()

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

  /**
   * Builds the successor of one node from the primary of the document, as long as that takes: nobody waits for the caller's turn
   * meanwhile. Whoever comes with the same document shares it; whoever comes with another one ends it.
   */
  async build(name: ShardName, document: ShardDocument, retired: RetiredNode): Promise<Built> {
    const id = nodeId(name, retired.successor)
    // Nothing is awaited between the last look and the entry below: whoever comes then finds it.
    for (let build = this.#builds.get(id); build !== undefined; build = this.#builds.get(id)) {
      if (build.document === document) return build.built
      await this.#interrupt(id)
    }
    const abort = new AbortController()
    const signal = AbortSignal.any([abort.signal, this.#parts.closing])
    const build: Build = { document, abort, built: this.#build(name, document, retired, signal), ready: undefined }
    this.#builds.set(id, build)
    try {
      build.ready = await build.built
      return build.ready
    } catch (error) {
      this.#forgetBuild(id, build)
      throw error
    }
  }

  /**
   * Puts what was built into the topology, in the caller's turn; gives the document that has it. Where it is not due any more, or
   * somebody began it anew, gives undefined.
   */
  async place(
    name: ShardName,
    built: Built,
    isDue: (now: ShardDocument) => boolean,
  ): Promise<ShardDocument | undefined> {
    const { topology, servers, onStep } = this.#parts
    const { node, retired } = built
    const now = topology().shard(name)
    const build = this.#builds.get(node.id)
    if (now === this.#placed.get(built)) return now
    if (build?.ready !== built) return undefined
    this.#forgetBuild(node.id, build)
    if (!isDue(now)) {
      // Its source may be no primary any more, and what it has may not be in the new history.
      await servers.stop(node.id, 'immediate')
      await servers.removeDirectory(node.folder)
      return undefined
    }
    // Before the topology forgets it: nobody would come for it again.
    await this.#remove(retired)
    await onStep('promotion place', { shard: name })
    await topology().replaceShard(name, {
      ...now,
      nodes: [...now.nodes, node],
      retired: now.retired?.filter(({ successor }) => successor !== retired.successor),
    })
    const document = topology().shard(name)
    this.#placed.set(built, document)
    return document
  }

  async #build(name: ShardName, document: ShardDocument, retired: RetiredNode, signal: AbortSignal): Promise<Built> {
    const { shardServers, progress } = this.#parts
    const { region } = retired.node
    const id = nodeId(name, retired.successor)
    progress({ step: 'rebuild', detail: `${id} in ${region}` })
    const node = await shardServers.place(id, region, folderOf(name, retired.successor))
    await shardServers.buildFollower(nodeOf(document, document.primary), node, signal)
    return { node, retired }
  }

  async #remove({ node }: RetiredNode): Promise<void> {
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
    await this.#remove(retired)
  }

  async #interrupt(id: NodeId): Promise<void> {
    const build = this.#builds.get(id)
    if (build === undefined) return
    build.abort.abort()
    await build.built.catch(() => undefined)
    this.#forgetBuild(id, build)
  }

  #forgetBuild(id: NodeId, build: Build): void {
    if (this.#builds.get(id) === build) this.#builds.delete(id)
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
    const { topology, shardServers, exclusively, onStep } = this.#parts
    const before = topology().shard(name)
    const built = await this.build(name, before, retired)
    await exclusively(async () => {
      const isDue = ({ epoch, primary, state }: ShardDocument) =>
        epoch === before.epoch && primary === before.primary && state === 'open'
      const document = await this.place(name, built, isDue)
      if (document === undefined) return
      await onStep('opening names', { shard: name })
      await shardServers.applySynchronousNames(name, document)
    })
  }
}
