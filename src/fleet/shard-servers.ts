import { reserveForArchive } from '../archive/archiver.ts'
import { present } from '../base/assert.ts'
import type { Clock } from '../base/clock.ts'
import { HoldfastError } from '../base/errors.ts'
import type { NodeId, RegionName, ShardName } from '../directory/topology.ts'
import type { ConnectionTarget } from '../postgres/statement.ts'
import { Connection } from '../postgres/connection.ts'
import { ServerError } from '../postgres/failure.ts'
import { upstreamFile, writeSettings } from '../postgres/server/data-directory.ts'
import { buildFollower, createSlot, follow, waitStreaming } from '../postgres/server/follower.ts'
import { sqlState } from '../postgres/sqlstate.ts'
import { passBarrier } from '../transaction/barrier.ts'
import type { FleetConfig, ShardConfig } from './config.ts'
import { administer } from './administer.ts'
import { stringSettings } from './founding.ts'
import type { RoleName } from './keys.ts'
import type { LinkNetwork } from './link-network.ts'
import { nodeId } from './node-names.ts'
import { countsForCommits, nodeSettings, slotName, slotPattern, synchronousStandbyNames } from './node-settings.ts'
import type { FleetServers } from './servers.ts'
import type { NodeDocument, ShardDocument } from './topology-store.ts'

const inForceWithinMs = 30_000
const connectWithinMs = 5_000
const pollMs = 10

/**
 * Whom a primary does not let in before its barrier has passed (F2), nor a follower before it has the release (U2). What a
 * gateway has been told of the shard does not count here: one that outlived a supervisor, or has not heard yet, still takes it
 * for open.
 */
const lockedOut: readonly RoleName[] = ['holdfast_gateway', 'holdfast_app']

/**
 * The servers of shards by role: starting a primary, building and attaching followers, naming whom commits wait for.
 * What it starts is in the topology document that the caller hands in; it changes no document itself.
 */
export class ShardServers {
  readonly #servers: FleetServers
  readonly #links: LinkNetwork
  readonly #config: FleetConfig
  readonly #clock: Clock
  /** Followers that let no gateway in until `admit`. */
  readonly #lockedOut = new Set<NodeId>()

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

  /** Starts a primary that lets no gateway in until `admit`. */
  async startPrimary(name: ShardName, shard: ShardDocument): Promise<void> {
    const node = nodeOf(shard, shard.primary)
    await this.#servers.start({
      id: node.id,
      dataDir: this.#servers.dataDirOf(node.folder),
      settings: this.#settings(this.synchronousNames(name, shard)),
      lockedOut,
    })
    await this.tidySlots(name, shard, node)
  }

  /** The same, and its commits wait for nobody, e.g. while its followers are built. */
  async startPrimaryWithoutWaiting(shard: ShardDocument): Promise<void> {
    const node = nodeOf(shard, shard.primary)
    const dataDir = this.#servers.dataDirOf(node.folder)
    await this.#servers.start({ id: node.id, dataDir, settings: this.#settings(''), lockedOut })
  }

  /** The same, unless it runs: a supervisor that was killed left it down. */
  async ensurePrimary(shard: ShardDocument): Promise<void> {
    if (!this.#servers.isRunning(shard.primary)) await this.startPrimaryWithoutWaiting(shard)
  }

  /** Lets gateways in; resolves when the server does. Behind a barrier, and before anybody is told that the shard is open. */
  async admit(node: NodeDocument): Promise<void> {
    await this.#servers.server(node.id).admitAll()
    this.#lockedOut.delete(node.id)
    const target = this.#servers.target(node, 'holdfast_gateway', 'holdfast-supervisor')
    const deadline = this.#clock.monotonicMs() + inForceWithinMs
    for (;;) {
      try {
        const connection = await Connection.connect(target, connectWithinMs)
        connection.release()
        return
      } catch (error) {
        const isLockedOut = error instanceof ServerError && error.sqlState === sqlState.invalidAuthorization
        if (!isLockedOut || this.#clock.monotonicMs() > deadline) throw error
        await this.#clock.sleep(pollMs)
      }
    }
  }

  /** Starts a follower's server on its data directory, streaming from the shard's primary. It lets no gateway in until `admit`. */
  async startFollower(name: ShardName, shard: ShardDocument, node: NodeDocument): Promise<void> {
    const dataDir = this.#servers.dataDirOf(node.folder)
    await follow(dataDir, this.#upstream(nodeOf(shard, shard.primary), node), this.#servers.user)
    this.#lockedOut.add(node.id)
    await this.#servers.start({ id: node.id, dataDir, settings: this.#settings(''), lockedOut })
    // Of a promotion that was broken off while one follower fetched from it what it lacked.
    await this.tidySlots(name, shard, node)
  }

  isLockedOut(id: NodeId): boolean {
    return this.#lockedOut.has(id)
  }

  /** Where a follower reaches its primary, as the role that it streams with. */
  sourceOf(primary: NodeDocument, node: NodeDocument): ConnectionTarget {
    return this.#upstream(primary, node).primary
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
    await administer(this.adminTarget(primary), (admin) => waitStreaming(admin, node.id, 30_000, this.#clock))
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

  /**
   * Drops the slots that a node keeps for nodes of its shard that do not follow it: each would keep its log for ever. A primary
   * is followed by the others, and by the successors that are being built; a follower by nobody.
   */
  async tidySlots(name: ShardName, shard: ShardDocument, at: NodeDocument): Promise<void> {
    const kept = at.id === shard.primary ? followersToBe(name, shard).map(slotName) : []
    const deadline = this.#clock.monotonicMs() + inForceWithinMs
    await administer(this.adminTarget(at), async (admin) => {
      for (;;) {
        // Who is still there is told to go: what it streams belongs to a follower that is not ours any more.
        const { rows } = await admin.query<{ slot: string; isActive: boolean }>(
          `select s.slot_name::text as slot, pg_terminate_backend(s.active_pid) is not null as "isActive"
           from pg_replication_slots s
           where s.slot_type = 'physical' and s.slot_name ~ $1 and s.slot_name <> all($2::name[])`,
          [slotPattern(name), kept],
        )
        for (const { slot } of rows.filter(({ isActive }) => !isActive)) {
          await admin.query('select pg_drop_replication_slot($1)', [slot])
        }
        const active = rows.find(({ isActive }) => isActive)
        if (active === undefined) return
        if (this.#clock.monotonicMs() > deadline) {
          throw new HoldfastError('node_unavailable', `nobody lets go of the slot ${active.slot} at ${at.id}`)
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
    await administer(this.adminTarget(source), (admin) => waitStreaming(admin, node.id, 30_000, this.#clock))
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
      const isTold = await administer(this.adminTarget(node), async (admin) => {
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

  /** Regions where the configuration has a node and the document has none. A promotion moves the primary, and not the places. */
  emptyPlaces(name: ShardName, { nodes }: ShardDocument): RegionName[] {
    const { region, followers } = this.shardConfig(name)
    const places = [region, ...followers]
    for (const node of nodes) {
      const taken = places.indexOf(node.region)
      if (taken >= 0) places.splice(taken, 1)
    }
    return places
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
    await administer(this.adminTarget(node), (admin) => passBarrier(admin, node.id, withinMs))
  }

  #settings(synchronousNames: string): Readonly<Record<string, string>> {
    return stringSettings({
      ...nodeSettings(this.#servers.binaries.major),
      synchronous_standby_names: synchronousNames,
      // Once more, so that every session sees what changes the one alone (HZ-S5).
      'holdfast.followers': synchronousNames,
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

/** Who follows the primary, and who will. */
function followersToBe(name: ShardName, { nodes, primary, retired = [] }: ShardDocument): NodeId[] {
  const followers = nodes.filter(({ id }) => id !== primary)
  return [...followers.map(({ id }) => id), ...retired.map(({ successor }) => nodeId(name, successor))]
}

export function nodeOf(shard: ShardDocument, id: NodeId): NodeDocument {
  return present(
    shard.nodes.find((node) => node.id === id),
    `node ${id} is in the topology`,
  )
}
