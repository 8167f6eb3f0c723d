import { reserveForArchive } from '../archive/archiver.ts'
import { present } from '../base/assert.ts'
import type { Clock } from '../base/clock.ts'
import { HoldfastError } from '../base/errors.ts'
import type { NodeId, RegionName, ShardName } from '../directory/topology.ts'
import type { ConnectionTarget } from '../postgres/connection.ts'
import { upstreamFile, writeSettings } from '../postgres/server/data-directory.ts'
import { buildFollower, createSlot, follow, waitStreaming } from '../postgres/server/follower.ts'
import type { ServerAddress } from '../postgres/server/server-host.ts'
import { passBarrier } from '../transaction/barrier.ts'
import type { FleetConfig, ShardConfig } from './config.ts'
import { withConnection } from '../postgres/postgres.ts'
import { stringSettings } from './founding.ts'
import type { LinkNetwork } from './link-network.ts'
import { countsForCommits, nodeSettings, slotName, synchronousStandbyNames } from './node-settings.ts'
import type { FleetServers } from './servers.ts'
import type { NodeDocument, ShardDocument } from './topology-store.ts'

const inForceWithinMs = 30_000
const pollMs = 10

/**
 * The servers of shards by role: starting a primary, building and attaching followers, naming whom commits wait for.
 * What it starts is in the topology document that the caller hands in; it changes no document itself.
 */
export class ShardServers {
  readonly #servers: FleetServers
  readonly #links: LinkNetwork
  readonly #config: FleetConfig
  readonly #clock: Clock

  constructor(servers: FleetServers, links: LinkNetwork, config: FleetConfig, clock: Clock) {
    this.#servers = servers
    this.#links = links
    this.#config = config
    this.#clock = clock
  }

  /** A node's place: folder, socket and its links from every other region. Opens the links. */
  async place(id: NodeId, region: RegionName, folder: string): Promise<NodeDocument> {
    const { host, port } = this.#servers.addressOf(folder)
    const links = await this.#links.openFor({ folder, region, host, port })
    return { id, region, folder, host, port, links }
  }

  adminTarget(node: Pick<NodeDocument, 'host' | 'port'>): ConnectionTarget {
    return this.#servers.adminTarget(node)
  }

  async startPrimary(name: ShardName, shard: ShardDocument): Promise<ServerAddress> {
    const node = nodeOf(shard, shard.primary)
    return this.#servers.start({
      id: node.id,
      dataDir: this.#servers.dataDirOf(node.folder),
      settings: this.#settings(this.synchronousNames(name, shard)),
    })
  }

  /** Starts a primary whose commits wait for nobody, e.g. while its followers are built and no traffic is let in. */
  async startPrimaryWithoutWaiting(shard: ShardDocument): Promise<void> {
    const node = nodeOf(shard, shard.primary)
    const dataDir = this.#servers.dataDirOf(node.folder)
    await this.#servers.start({ id: node.id, dataDir, settings: this.#settings('') })
  }

  /** The same, unless it runs: a supervisor that was killed left it down. */
  async ensurePrimary(shard: ShardDocument): Promise<void> {
    if (!this.#servers.isRunning(shard.primary)) await this.startPrimaryWithoutWaiting(shard)
  }

  /** Starts a follower's server on its data directory, streaming from the shard's primary. */
  async startFollower(shard: ShardDocument, node: NodeDocument): Promise<void> {
    const dataDir = this.#servers.dataDirOf(node.folder)
    await follow(dataDir, this.#upstream(nodeOf(shard, shard.primary), node), this.#servers.user)
    await this.#servers.start({ id: node.id, dataDir, settings: this.#settings('') })
  }

  /** Builds a follower from the running primary, starts it, and waits until it streams. */
  async buildFollower(primary: NodeDocument, node: NodeDocument, signal?: AbortSignal): Promise<void> {
    const dataDir = this.#servers.dataDirOf(node.folder)
    // An earlier build may have got as far as a server that never streamed.
    await this.#servers.stop(node.id, 'immediate')
    await this.#servers.removeDirectory(node.folder)
    const upstream = this.#upstream(primary, node)
    await buildFollower({ upstream, dataDir, user: this.#servers.user, ...(signal === undefined ? {} : { signal }) })
    await this.#servers.start({ id: node.id, dataDir, settings: this.#settings('') })
    await withConnection(this.adminTarget(primary), (admin) => waitStreaming(admin, node.id, 30_000, this.#clock))
  }

  /** Lets a running follower listen to nobody. In force soon after. */
  async detach(node: NodeDocument): Promise<void> {
    await writeSettings(this.#servers.dataDirOf(node.folder), {}, this.#servers.user, upstreamFile)
    this.#servers.server(node.id).reload()
  }

  /** Points a running follower back at the shard's primary, which still has its slot. In force soon after. */
  async pointBack(primary: NodeDocument, node: NodeDocument): Promise<void> {
    await follow(this.#servers.dataDirOf(node.folder), this.#upstream(primary, node), this.#servers.user)
    this.#servers.server(node.id).reload()
  }

  /** Drops the slot that a node had at a source it follows no longer: it would keep that node's log for ever. */
  async forgetSlot(source: NodeDocument, node: NodeDocument): Promise<void> {
    const deadline = this.#clock.monotonicMs() + inForceWithinMs
    await withConnection(this.adminTarget(source), async (admin) => {
      for (;;) {
        const { rows } = await admin.query<{ active: boolean }>(
          'select active from pg_replication_slots where slot_name = $1',
          [slotName(node.id)],
        )
        const [slot] = rows
        if (slot === undefined) return
        if (!slot.active) return void (await admin.query('select pg_drop_replication_slot($1)', [slotName(node.id)]))
        if (this.#clock.monotonicMs() > deadline) {
          throw new HoldfastError('node_unavailable', `${node.id} does not let go of its slot at ${source.id}`)
        }
        await this.#clock.sleep(pollMs)
      }
    })
  }

  /** Points a running follower at another source of its log, with a slot there, and waits until it streams. */
  async attach(source: NodeDocument, node: NodeDocument): Promise<void> {
    const upstream = this.#upstream(source, node)
    await createSlot(upstream.primary, upstream.slot)
    await follow(this.#servers.dataDirOf(node.folder), upstream, this.#servers.user)
    this.#servers.server(node.id).reload()
    await withConnection(this.adminTarget(source), (admin) => waitStreaming(admin, node.id, 30_000, this.#clock))
  }

  /** Lets the primary's commits wait for the followers that the document names; resolves when every commit does. */
  async applySynchronousNames(name: ShardName, shard: ShardDocument): Promise<void> {
    const names = this.synchronousNames(name, shard)
    await this.#servers.server(shard.primary).configure(this.#settings(names))
    await this.#requireInForce(nodeOf(shard, shard.primary), names)
  }

  /**
   * HAZARD: whether commits wait at all is told to them by the checkpointer, which takes a reload up in its own time; until
   * then a commit and even a barrier pass alone. A new session that has the value shows that the checkpointer was told, and
   * a checkpoint asked for after that begins when it has listened.
   */
  async #requireInForce(node: NodeDocument, names: string): Promise<void> {
    const deadline = this.#clock.monotonicMs() + inForceWithinMs
    for (;;) {
      const isTold = await withConnection(this.adminTarget(node), async (admin) => {
        const { rows } = await admin.query<{ names: string }>(
          `select current_setting('synchronous_standby_names') as names`,
        )
        if (rows[0]?.names !== names) return false
        await admin.query('checkpoint', [], inForceWithinMs)
        return true
      })
      if (isTold) return
      if (this.#clock.monotonicMs() > deadline) {
        throw new HoldfastError('node_unavailable', `${node.id} does not take up whom its commits wait for`)
      }
      await this.#clock.sleep(pollMs)
    }
  }

  /** A primary that waits for nobody, e.g. while its followers are built and no traffic is let in. */
  settingsWithoutWaiting(): Readonly<Record<string, string>> {
    return this.#settings('')
  }

  synchronousNames(name: ShardName, shard: ShardDocument): string {
    const followers = shard.nodes.filter(({ id }) => id !== shard.primary)
    return synchronousStandbyNames(this.shardConfig(name), nodeOf(shard, shard.primary).region, followers)
  }

  /** Whether the follower's acknowledgement counts towards a commit of this shard. */
  counts(name: ShardName, shard: ShardDocument, follower: NodeDocument): boolean {
    return countsForCommits(this.shardConfig(name), nodeOf(shard, shard.primary).region, follower)
  }

  shardConfig(name: ShardName): ShardConfig {
    return present(this.#config.shards.get(name), `shard ${name} is configured`)
  }

  /** Nothing is written on this primary from here on that its archive cannot have. */
  async reserveForArchive(name: ShardName, node: NodeDocument): Promise<void> {
    if (this.shardConfig(name).archive === null) return
    await reserveForArchive(this.#servers.target(node, 'holdfast_replication', `archive-${name}`), this.#clock)
  }

  /** A small write that the followers acknowledged: before it, nothing that this primary shows may be acted on. */
  async barrier(node: NodeDocument, withinMs: number): Promise<void> {
    await withConnection(this.adminTarget(node), (admin) => passBarrier(admin, node.id, withinMs))
  }

  #settings(synchronousNames: string): Readonly<Record<string, string>> {
    return stringSettings({
      ...nodeSettings(this.#servers.binaries.major),
      synchronous_standby_names: synchronousNames,
    })
  }

  #upstream(primary: NodeDocument, node: NodeDocument) {
    const host =
      node.region === primary.region ? primary.host : this.#links.replicationHost(node.region, primary.folder)
    return {
      primary: this.#servers.target({ host, port: primary.port }, 'holdfast_replication', node.id),
      applicationName: node.id,
      slot: slotName(node.id),
    }
  }
}

export function nodeOf(shard: ShardDocument, id: NodeId): NodeDocument {
  return present(
    shard.nodes.find((node) => node.id === id),
    `node ${id} is in the topology`,
  )
}
