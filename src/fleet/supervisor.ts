import { readdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { present } from '../base/assert.ts'
import type { Clock } from '../base/clock.ts'
import { systemClock } from '../base/clock.ts'
import { deferred } from '../base/deferred.ts'
import { HoldfastError } from '../base/errors.ts'
import { Lane } from '../base/lane.ts'
import type { Progress } from '../base/progress.ts'
import type { OnStep } from '../base/step.ts'
import { noStep } from '../base/step.ts'
import type { RegionName } from '../directory/topology.ts'
import type { Release } from '../postgres/release.ts'
import { defaultCacheRoot, locatePostgres } from '../postgres/server/binaries.ts'
import { clearPredecessor } from '../postgres/server/predecessor.ts'
import { serverUser } from '../postgres/server/server-user.ts'
import { loadInvariants } from '../recovery/invariant.ts'
import { foundFleet, restartFleet } from './bring-up.ts'
import type { FleetConfig } from './config.ts'
import { roundTripMs } from './config.ts'
import { keepDrills } from './drill-schedule.ts'
import { FollowerAdmission } from './follower-admission.ts'
import type { FleetHome } from './home.ts'
import { clearRunDir, makeHome } from './home.ts'
import type { FleetKeys } from './keys.ts'
import { loadOrMakeKeys } from './keys.ts'
import { LinkNetwork } from './link-network.ts'
import { LostFollowers } from './lost-followers.ts'
import { watchNames } from './names-watch.ts'
import { bringBack } from './node-restart.ts'
import { Promotions } from './promotions.ts'
import { Rebuilding } from './rebuilding.ts'
import { FleetServers } from './servers.ts'
import { ShardServers } from './shard-servers.ts'
import type { SupervisorLock } from './supervisor-lock.ts'
import { takeLock } from './supervisor-lock.ts'
import { TakingUp } from './taking-up.ts'
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
 *       that acted on it could be contradicted by a promotion (HZ-S2). A primary therefore starts with gateways locked
 *       out: one that outlived an earlier supervisor takes the shard for open.
 *   F3  The topology is durable before it is told.
 *   F4  A founding that was broken off leaves nothing: the fleet exists when its topology document does.
 *   F5  A server's folder that neither the topology nor an environment names is removed at the next start.
 *   F6  A shard that does not come up at a start stays closed, and keeps no other from taking traffic (V10 of failover).
 */
export interface SupervisorOptions {
  readonly config: FleetConfig
  /** Round trips between regions: as the configuration's `links` say, all the same, or none. */
  readonly wan: boolean | number
  readonly clock?: Clock
  readonly progress: Progress
  readonly onStep?: OnStep
  readonly release: Release
}

/** For what is under way when the fleet is closed to end by itself; after that its servers are taken from under it. */
const finishWithinMs = 20_000

export class Supervisor {
  readonly config: FleetConfig
  readonly home: FleetHome
  readonly keys: FleetKeys
  readonly servers: FleetServers
  readonly links: LinkNetwork
  readonly shardServers: ShardServers
  readonly clock: Clock
  readonly progress: Progress
  readonly onStep: OnStep
  readonly rebuilding: Rebuilding
  readonly promotions: Promotions
  readonly lostFollowers: LostFollowers
  readonly takingUp: TakingUp
  readonly followerAdmission: FollowerAdmission
  /** What every shard is brought to, and who attaches has to have. */
  readonly release: Release
  readonly #lock: SupervisorLock
  #topology: TopologyStore | undefined
  readonly #closing = new AbortController()
  readonly #changes = new Lane()
  readonly #environments = new Lane()
  #givingWay: AbortController | undefined
  readonly #underWay = new Set<Promise<unknown>>()
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
    onStep: OnStep
    release: Release
  }) {
    this.config = parts.config
    this.home = parts.home
    this.keys = parts.keys
    this.servers = parts.servers
    this.links = parts.links
    this.clock = parts.clock
    this.shardServers = new ShardServers(parts.servers, parts.links, parts.config, parts.clock)
    this.#lock = parts.lock
    this.progress = parts.progress
    this.onStep = parts.onStep
    this.release = parts.release
    this.rebuilding = new Rebuilding({
      topology: () => this.topology,
      servers: parts.servers,
      shardServers: this.shardServers,
      clock: parts.clock,
      progress: parts.progress,
      onStep: parts.onStep,
      closing: this.closing,
      exclusively: (change) => this.exclusively(change),
    })
    this.promotions = new Promotions(this)
    this.lostFollowers = new LostFollowers(this)
    this.followerAdmission = new FollowerAdmission(this)
    this.takingUp = new TakingUp(parts.config, this.shardServers)
  }

  /**
   * Takes the data directory and brings the fleet up; resolves when every shard takes traffic that can: what does not come up is
   * told as an alarm, and is closed in the topology (F6). Throws `config_invalid`, `fleet_locked`, `postgres_missing`,
   * `directory_not_writable`, `disk_full`, `server_failed` where no server starts, `release_newer`, `upgrade_blocked`,
   * `upgrade_failed`; then nothing is left running.
   */
  static async start(options: SupervisorOptions): Promise<Supervisor> {
    const { config, progress, release, clock = systemClock, onStep = noStep } = options
    // A rule that cannot be read is for who starts the fleet to mend, and not for who restores it on the bad day.
    if (config.invariants !== null) await loadInvariants(config.invariants)
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
      supervisor = new Supervisor({ config, home, keys, servers, links, clock, lock, progress, onStep, release })
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
    return this.#changes.run(change)
  }

  /**
   * The same for restored environments, which are no part of the topology: a restore takes as long as there is data, and no node
   * that is to come back waits for it. What changes both, a cutover, takes this turn first.
   */
  onEnvironments<T>(change: () => Promise<T>): Promise<T> {
    // One that has ended does not hear it any more.
    this.#givingWay?.abort()
    return this.#environments.run(change)
  }

  /**
   * The same for what nobody waits for, one at a time. Its signal is aborted as soon as somebody else wants the turn, who may be about
   * to end an outage, and when the fleet stops.
   */
  onEnvironmentsGivingWay<T>(change: (signal: AbortSignal) => Promise<T>): Promise<T> {
    const controller = new AbortController()
    this.#givingWay = controller
    return this.#environments.run(() => change(AbortSignal.any([controller.signal, this.closing])))
  }

  /**
   * Runs an operation that a closing fleet waits for. Throws `fleet_not_running` once it closes: what begins then would
   * find its servers gone.
   */
  async run<T>(operation: () => Promise<T>): Promise<T> {
    if (this.closing.aborted)
      throw new HoldfastError('fleet_not_running', 'the fleet stops', { hint: 'start it again' })
    const running = operation()
    const ended = running.catch(() => undefined)
    this.#underWay.add(ended)
    void ended.then(() => this.#underWay.delete(ended))
    return running
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

  /**
   * Ends what is under way, stops the servers in order and gives the data directory back. What does not end in time fails:
   * each operation can be run again, and a promotion goes on at the next start.
   */
  async close(): Promise<void> {
    if (this.closing.aborted) return
    this.#closing.abort()
    await this.#finish()
    await this.servers.stopAll()
    // Nothing writes into a directory that somebody else may hold.
    await this.#finish()
    await this.links.close()
    await rm(this.home.registryFile, { force: true })
    await rm(this.home.runDir, { recursive: true, force: true })
    await this.#lock.release()
  }

  async #finish(): Promise<void> {
    const giveUp = new AbortController()
    const late = this.clock.sleep(finishWithinMs, giveUp.signal).catch(() => undefined)
    await Promise.race([
      late,
      Promise.all([...this.#underWay, this.#changes.ended(), this.rebuilding.ended(), this.promotions.ended()]),
    ])
    giveUp.abort()
  }

  async #bringUp(): Promise<void> {
    const loaded = await TopologyStore.load(this.home.topologyFile)
    this.#topology = loaded ?? (await TopologyStore.create(this.home.topologyFile, await foundFleet(this)))
    const leftOut = loaded === undefined ? undefined : await restartFleet(this, loaded.document)
    this.servers.watchCrashes((id) => void this.run(() => bringBack(this, id)).catch(() => undefined))
    leftOut?.bringBack()
    void this.run(() => watchNames(this)).catch(() => undefined)
    void this.run(() => this.lostFollowers.watch()).catch(() => undefined)
    void this.run(() => keepDrills(this)).catch(() => undefined)
  }
}

/** Servers of nodes and of restored environments outlive a supervisor that was killed; nobody else ends them. */
async function stopLeftServers({ serversDir }: FleetHome, clock: Clock): Promise<void> {
  const folders = await readdir(serversDir)
  await Promise.all(folders.map((folder) => clearPredecessor(join(serversDir, folder), clock)))
}
