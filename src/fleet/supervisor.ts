import { readdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { present } from '../base/assert.ts'
import { deferred } from '../base/deferred.ts'
import type { Clock } from '../base/clock.ts'
import { systemClock } from '../base/clock.ts'
import { HoldfastError } from '../base/errors.ts'
import type { Progress } from '../base/progress.ts'
import type { Epoch, Jurisdiction, NodeId, RegionName, ShardName } from '../directory/topology.ts'
import type { Connection } from '../postgres/connection.ts'
import { defaultCacheRoot, locatePostgres } from '../postgres/server/binaries.ts'
import { clearPredecessor } from '../postgres/server/predecessor.ts'
import { serverUser } from '../postgres/server/server-user.ts'
import type { FleetConfig } from './config.ts'
import { roundTripMs } from './config.ts'
import { withConnection } from '../postgres/postgres.ts'
import { foundShard, installDomains, requireUnusedArchives, writeClockOffset, writePlacements } from './founding.ts'
import type { FleetHome } from './home.ts'
import { clearRunDir, makeHome } from './home.ts'
import type { FleetKeys } from './keys.ts'
import { loadOrMakeKeys } from './keys.ts'
import { LinkNetwork } from './link-network.ts'
import { folderOf, nodeId } from './node-names.ts'
import { finishPromotion } from './promotion.ts'
import { FleetServers } from './servers.ts'
import { nodeOf, ShardServers } from './shard-servers.ts'
import type { SupervisorLock } from './supervisor-lock.ts'
import { takeLock } from './supervisor-lock.ts'
import type { NodeDocument, ShardDocument, TopologyDocument } from './topology-store.ts'
import { TopologyStore } from './topology-store.ts'

/**
 * The supervisor of an embedded fleet: owns the data directory's lock, the server processes and the links.
 *
 * The simple way, each command starting what it needs, loses track of servers the first time a command is killed. So
 * one process at a time holds a data directory, and every other process attaches to it.
 *
 * Owns: the lock, the servers, the links, the topology document. Does not own: transactions and reads (gateways do,
 * and killing one loses nothing but open requests), nor any decision about data (the shards' own rows have it).
 *
 *   F1  At most one supervisor holds a data directory.
 *   F2  No traffic before a barrier passes: after any restart, what a primary shows may be unreplicated, and a gateway
 *       that acted on it could be contradicted by a promotion (HZ-S2).
 *   F3  The topology is durable before it is told.
 *   F4  A founding that was broken off leaves nothing: the fleet exists when its topology document does.
 */
export interface SupervisorOptions {
  readonly config: FleetConfig
  /** Round trips between regions: as the configuration's `links` say, all the same, or none. */
  readonly wan: boolean | number
  readonly clock?: Clock
  readonly progress: Progress
}

const barrierWithinMs = 20_000
/** Between attempts to bring back a server that ended by itself. */
const recoverPauseMs = 1_000

export class Supervisor {
  readonly config: FleetConfig
  readonly home: FleetHome
  readonly keys: FleetKeys
  readonly servers: FleetServers
  readonly links: LinkNetwork
  readonly shardServers: ShardServers
  readonly clock: Clock
  readonly #lock: SupervisorLock
  readonly #progress: Progress
  #topology: TopologyStore | undefined
  readonly #closing = new AbortController()
  #changes: Promise<void> = Promise.resolve()
  readonly #stopRequested = deferred<void>()
  #stopsOnRequest = false

  private constructor(parts: {
    config: FleetConfig
    home: FleetHome
    keys: FleetKeys
    servers: FleetServers
    links: LinkNetwork
    clock: Clock
    lock: SupervisorLock
    progress: Progress
  }) {
    this.config = parts.config
    this.home = parts.home
    this.keys = parts.keys
    this.servers = parts.servers
    this.links = parts.links
    this.clock = parts.clock
    this.shardServers = new ShardServers(parts.servers, parts.links, parts.config, parts.clock)
    this.#lock = parts.lock
    this.#progress = parts.progress
  }

  /**
   * Takes the data directory and brings the fleet up; resolves when every shard takes traffic. Throws `fleet_locked`,
   * `postgres_missing`, `directory_not_writable`, `disk_full`, `server_failed`; then nothing is left running.
   */
  static async start(options: SupervisorOptions): Promise<Supervisor> {
    const { config, progress, clock = systemClock } = options
    const user = await serverUser()
    const home = await makeHome(config.dataDir, user)
    const lock = await takeLock(home.lockFile)
    let supervisor: Supervisor | undefined
    try {
      if (lock.previousHolderCrashed) await stopLeftServers(home, clock)
      await clearRunDir(home)
      const binaries = await locatePostgres(await defaultCacheRoot(user), user)
      const keys = await loadOrMakeKeys(home.keysDir)
      const servers = new FleetServers({ home, binaries, user, keys, clock })
      const delay = (a: RegionName, b: RegionName) =>
        options.wan === false ? 0 : options.wan === true ? roundTripMs(config.links, a, b) : options.wan
      const links = new LinkNetwork({ runDir: home.runDir, regions: [...config.regions.keys()], delay, user, clock })
      supervisor = new Supervisor({ config, home, keys, servers, links, clock, lock, progress })
      await supervisor.#bringUp()
      return supervisor
    } catch (error) {
      await supervisor?.close()
      await lock.release()
      throw error
    }
  }

  get topology(): TopologyStore {
    return present(this.#topology, 'the fleet is up')
  }

  /** Aborted when the fleet stops: nobody waits for it any more. */
  get closing(): AbortSignal {
    return this.#closing.signal
  }

  /** Runs one change of servers or topology at a time; a failed one does not keep the next from running. */
  exclusively<T>(change: () => Promise<T>): Promise<T> {
    const result = this.#changes.then(change)
    this.#changes = result.then(
      () => undefined,
      () => undefined,
    )
    return result
  }

  /** Resolves when somebody asked this supervisor to stop; whoever waits here is expected to close it then. */
  stopRequested(): Promise<void> {
    this.#stopsOnRequest = true
    return this.#stopRequested.promise
  }

  /** Throws `fleet_locked` where the fleet is a part of a program of its own, which alone knows when to stop. */
  requestStop(): void {
    if (!this.#stopsOnRequest) {
      throw new HoldfastError('fleet_locked', `the fleet is a part of process ${process.pid} and stops with it`, {
        hint: 'close it there, or end that process',
      })
    }
    this.#stopRequested.resolve()
  }

  /** Crashes a node's server. It stays down until it is restarted. */
  async killNode(id: NodeId): Promise<void> {
    await this.servers.kill(id)
  }

  /** Starts a node's server again; a primary takes traffic once a barrier has passed (F2). */
  async restartNode(id: NodeId): Promise<void> {
    const started = await this.exclusively(() => this.#startAgain(id))
    if (started === undefined) return
    // Out of turn: the followers that the barrier waits for may have to be started meanwhile.
    const { name, fenced } = started
    if (!(await this.#passesBarrier(fenced))) return
    await this.exclusively(async () => {
      const now = this.topology.shard(name)
      const isSame = now.epoch === fenced.epoch && now.primary === fenced.primary
      if (isSame && now.state !== 'open') await this.topology.replaceShard(name, { ...now, state: 'open' })
    })
  }

  /** Gives the shard that is to be opened, when it was its primary that was started. */
  async #startAgain(id: NodeId): Promise<{ name: ShardName; fenced: ShardDocument } | undefined> {
    const found = this.#shardOf(id)
    if (found === undefined) throw new HoldfastError('unknown_node', `no node ${id} is in the topology`)
    const [name, shard] = found
    if (id !== shard.primary) {
      await this.shardServers.startFollower(shard, nodeOf(shard, id))
      return undefined
    }
    if (shard.promotion !== undefined) {
      await finishPromotion(this, name, this.#progress)
      return undefined
    }
    // What it shows after its crash may be on no follower (HZ-S2).
    const fenced: ShardDocument = { ...shard, state: 'fenced' }
    if (shard.state === 'open') await this.topology.replaceShard(name, fenced)
    await this.shardServers.startPrimary(name, shard)
    return { name, fenced }
  }

  #shardOf(id: string): [ShardName, ShardDocument] | undefined {
    const shards = Object.entries(this.topology.document.shards) as [ShardName, ShardDocument][]
    return shards.find(([, { nodes }]) => nodes.some((node) => node.id === id))
  }

  /** Starts a node that ended by itself again, until it runs, is no longer wanted, or the fleet stops. */
  async #recover(id: string): Promise<void> {
    for (;;) {
      const found = this.#shardOf(id)
      if (this.closing.aborted || found === undefined) return
      const [, shard] = found
      const isBack = this.servers.isRunning(id)
      // A primary that runs and could not pass its barrier yet is not back.
      if (isBack && (id !== shard.primary || shard.state === 'open')) return
      this.#progress({ step: 'restart', detail: `${id} ended by itself` })
      try {
        await this.restartNode(id as NodeId)
        return
      } catch (error) {
        this.#progress({
          step: 'restart failed',
          detail: `${id}: ${error instanceof Error ? error.message : String(error)}`,
        })
      }
      await this.clock.sleep(recoverPauseMs)
    }
  }

  /** Stops the servers in order and gives the data directory back. */
  async close(): Promise<void> {
    if (this.closing.aborted) return
    this.#closing.abort()
    await this.servers.stopAll()
    await this.links.close()
    await rm(this.home.registryFile, { force: true })
    await rm(this.home.runDir, { recursive: true, force: true })
    await this.#lock.release()
  }

  async #bringUp(): Promise<void> {
    this.#topology = await TopologyStore.load(this.home.topologyFile)
    if (this.#topology === undefined) await this.#found()
    else await this.#restart(this.#topology.document)
    this.servers.watchCrashes((id) => void this.#recover(id))
  }

  async #found(): Promise<void> {
    const { config } = this
    await requireUnusedArchives(config)
    await rm(this.home.serversDir, { recursive: true, force: true })
    await makeHome(config.dataDir, this.servers.user)
    const shards = await Promise.all(
      [...config.shards.keys()].map(async (name) => [name, await this.#foundShard(name)] as const),
    )
    const document: TopologyDocument = {
      version: 1,
      fleet: config.fleet,
      regions: Object.fromEntries(
        [...config.regions].map(([name, { jurisdiction }]) => [name, jurisdiction]),
      ) as Record<RegionName, Jurisdiction>,
      shards: Object.fromEntries(shards) as Record<ShardName, ShardDocument>,
    }
    this.#topology = await TopologyStore.create(this.home.topologyFile, document)
  }

  async #foundShard(name: ShardName): Promise<ShardDocument> {
    const shard = this.shardServers.shardConfig(name)
    const regions = [shard.region, ...shard.followers]
    const nodes: NodeDocument[] = []
    for (const [index, region] of regions.entries()) {
      nodes.push(await this.shardServers.place(nodeId(name, index + 1), region, folderOf(name, index + 1)))
    }
    const [primary, ...followers] = nodes
    const first = present(primary, 'a shard has a primary')
    this.#progress({ step: 'found', detail: `${name}: a new cluster in ${first.region}` })
    const { historyId } = await foundShard(this.servers, this.config, this.keys, shard, {
      id: first.id,
      folder: first.folder,
      settings: this.shardServers.settingsWithoutWaiting(),
    })
    const document: ShardDocument = {
      durability: shard.durability,
      epoch: 1 as Epoch,
      historyId,
      state: 'open',
      primary: first.id,
      nodes,
      nextNode: nodes.length + 1,
    }
    await Promise.all(
      followers.map((follower) => {
        this.#progress({ step: 'follow', detail: `${follower.id} in ${follower.region}` })
        return this.shardServers.buildFollower(first, follower)
      }),
    )
    await this.shardServers.reserveForArchive(name, first)
    await this.shardServers.applySynchronousNames(name, document)
    await this.shardServers.barrier(first, barrierWithinMs)
    return document
  }

  async #restart(document: TopologyDocument): Promise<void> {
    for (const name of this.config.shards.keys()) {
      if (document.shards[name] === undefined) {
        throw new HoldfastError('config_invalid', `shard ${name} was not part of this fleet when it was founded`, {
          hint: 'start it on a new data directory',
        })
      }
    }
    await Promise.all(
      (Object.entries(document.shards) as [ShardName, ShardDocument][]).map(([name, shard]) =>
        this.#restartShard(name, shard),
      ),
    )
  }

  async #restartShard(name: ShardName, shard: ShardDocument): Promise<void> {
    // The shard's own rows say what its commits promise; a setting that says less would break it without a word.
    if (this.config.shards.get(name)?.durability !== shard.durability) {
      throw new HoldfastError('config_invalid', `shard ${name} was founded with durability ${shard.durability}`, {
        hint: 'leave the shard and its durability in the configuration as they were, or start on a new data directory',
      })
    }
    for (const node of shard.nodes) await this.shardServers.place(node.id, node.region, node.folder)
    this.#progress({ step: 'start', detail: name })
    if (shard.promotion !== undefined) return finishPromotion(this, name, this.#progress)
    await this.shardServers.startPrimary(name, shard)
    const followers = shard.nodes.filter(({ id }) => id !== shard.primary)
    await Promise.all(followers.map((node) => this.shardServers.startFollower(shard, node)))
    await this.#requirePermanent(nodeOf(shard, shard.primary))
    await this.#open(name, shard)
  }

  /** F2. Also a shard that was lost, or whose promotion did not begin, is open once its primary is back. */
  async #open(name: ShardName, shard: ShardDocument): Promise<void> {
    if (!(await this.#passesBarrier(shard))) return
    await withConnection(this.shardServers.adminTarget(nodeOf(shard, shard.primary)), async (admin) => {
      // What the configuration gained since: migrations, tables, domains, tenants, another bound on clocks.
      await installDomains(admin, this.config, name)
      await writePlacements(admin, this.config)
      await writeClockOffset(admin, this.config)
    })
    if (shard.state === 'open') return
    await this.topology.replaceShard(name, { ...shard, state: 'open' })
  }

  /** False for what a cutover closed: it has no followers yet, and the cutover opens it when it is run again. */
  async #passesBarrier(shard: ShardDocument): Promise<boolean> {
    const primary = nodeOf(shard, shard.primary)
    const admin = this.shardServers.adminTarget(primary)
    if (shard.state !== 'open' && !(await withConnection(admin, (at) => isOpenInData(at, shard.epoch)))) return false
    await this.shardServers.barrier(primary, barrierWithinMs)
    return true
  }

  /** HZ-C3: an unlogged clock would start again from nothing after a crash. */
  async #requirePermanent(primary: NodeDocument): Promise<void> {
    const { rows } = await withConnection(this.shardServers.adminTarget(primary), (admin) =>
      admin.query<{ relation: string }>('select holdfast.impermanent_relations() as relation'),
    )
    if (rows.length > 0) {
      throw new HoldfastError(
        'check_failed',
        `relations of ${primary.id} would not survive a crash: ${rows.map((row) => row.relation).join(', ')}`,
        {
          hint: 'alter table ... set logged',
        },
      )
    }
  }
}

async function isOpenInData(admin: Connection, epoch: Epoch): Promise<boolean> {
  const { rows } = await admin.query(`select from holdfast.shard s where s.epoch = $1 and s.state = 'open'`, [epoch])
  return rows.length > 0
}

/** Servers of nodes and of restored environments outlive a supervisor that was killed; nobody else ends them. */
async function stopLeftServers({ serversDir }: FleetHome, clock: Clock): Promise<void> {
  const folders = await readdir(serversDir)
  await Promise.all(folders.map((folder) => clearPredecessor(join(serversDir, folder), clock)))
}
