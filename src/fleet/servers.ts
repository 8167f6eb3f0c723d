import { rm } from 'node:fs/promises'
import { basename, join } from 'node:path'
import type { Clock } from '../base/clock.ts'
import { HoldfastError } from '../base/errors.ts'
import type { ConnectionTarget } from '../postgres/statement.ts'
import type { PostgresBinaries } from '../postgres/server/binaries.ts'
import { makeDataDir } from '../postgres/server/data-directory.ts'
import type { StopMode } from '../postgres/server/local-server.ts'
import { LocalServer } from '../postgres/server/local-server.ts'
import type { ServerAddress, ServerHost, ServerSpec } from '../postgres/server/server-host.ts'
import type { ServerUser } from '../postgres/server/server-user.ts'
import type { FleetHome } from './home.ts'
import type { FleetKeys, RoleName } from './keys.ts'

/** One database for each server: a transaction in another one would hold the closed timestamp just as well. */
export const databaseName = 'holdfast'
export const serverPort = 5432

export interface ServersOptions {
  readonly home: FleetHome
  readonly binaries: PostgresBinaries
  readonly user: ServerUser | undefined
  readonly keys: FleetKeys
  readonly clock: Clock
}

/** The PostgreSQL server processes of an embedded fleet, nodes and restored environments alike. */
export class FleetServers implements ServerHost {
  readonly binaries: PostgresBinaries
  readonly user: ServerUser | undefined
  readonly #options: ServersOptions
  readonly #servers = new Map<string, LocalServer>()
  /** Those whose end nobody asked for, should they end. */
  readonly #meantToRun = new Set<string>()
  readonly #starting = new Set<Promise<void>>()
  #stopping = false
  #onCrash: (id: string) => void = () => {}

  constructor(options: ServersOptions) {
    this.#options = options
    this.binaries = options.binaries
    this.user = options.user
  }

  /** Where the server of a folder listens. */
  addressOf(folder: string): ServerAddress {
    return { host: join(this.#options.home.runDir, folder), port: serverPort }
  }

  dataDirOf(folder: string): string {
    return join(this.#options.home.serversDir, folder)
  }

  async createDirectory(name: string): Promise<string> {
    const dataDir = this.dataDirOf(name)
    await makeDataDir(dataDir, this.user)
    return dataDir
  }

  async removeDirectory(name: string): Promise<void> {
    await rm(this.dataDirOf(name), { recursive: true, force: true })
  }

  async start(spec: ServerSpec): Promise<ServerAddress> {
    const address = this.addressOf(basename(spec.dataDir))
    await this.stop(spec.id, 'fast')
    const server = new LocalServer({
      binaries: this.binaries,
      user: this.user,
      dataDir: spec.dataDir,
      socketDir: address.host,
      port: address.port,
      logFile: join(this.#options.home.logsDir, `${basename(spec.dataDir)}.log`),
      settings: spec.settings,
      ...(spec.lockedOut === undefined ? {} : { lockedOut: spec.lockedOut }),
      clock: this.#options.clock,
    })
    if (this.#stopping) throw stopping(spec.id)
    this.#servers.set(spec.id, server)
    const started = server.start()
    this.#starting.add(started)
    try {
      await started
    } finally {
      this.#starting.delete(started)
    }
    if (this.#stopping) throw stopping(spec.id)
    this.#meantToRun.add(spec.id)
    void server.ended().then(() => {
      if (this.#servers.get(spec.id) === server && this.#meantToRun.delete(spec.id)) this.#onCrash(spec.id)
    })
    return address
  }

  /** Calls back when a server ends that nobody stopped. */
  watchCrashes(onCrash: (id: string) => void): void {
    this.#onCrash = onCrash
  }

  /** A fast stop becomes an immediate one at the deadline, and a server that does not hear of that either is killed. */
  async stop(id: string, mode: StopMode, withinMs?: number): Promise<void> {
    this.#meantToRun.delete(id)
    await this.#servers.get(id)?.stop(mode, withinMs)
  }

  /** Crashes a server, as when its machine loses power. It stays down. */
  async kill(id: string): Promise<void> {
    this.#meantToRun.delete(id)
    await this.server(id).kill()
  }

  isRunning(id: string): boolean {
    return this.#servers.get(id)?.isRunning() ?? false
  }

  /** The running server of an id, for faults and settings. Throws `unknown_node`. */
  server(id: string): LocalServer {
    const server = this.#servers.get(id)
    if (server !== undefined) return server
    throw new HoldfastError('unknown_node', `no server ${id} was started`, {
      hint: `known are ${[...this.#servers.keys()].join(', ')}`,
    })
  }

  /** For good: an operation that is still under way starts no server behind it. */
  async stopAll(): Promise<void> {
    this.#stopping = true
    this.#meantToRun.clear()
    const stop = () => Promise.all([...this.#servers.values()].map((server) => server.stop('fast')))
    await stop()
    await Promise.allSettled(this.#starting)
    await stop()
  }

  adminTarget(address: ServerAddress): ConnectionTarget {
    return this.target(address, 'holdfast_admin', 'holdfast-supervisor')
  }

  target(address: ServerAddress, role: RoleName, applicationName: string): ConnectionTarget {
    return {
      ...address,
      user: role,
      password: this.#options.keys.passwords[role],
      database: databaseName,
      applicationName,
    }
  }
}

function stopping(id: string): HoldfastError {
  return new HoldfastError('fleet_not_running', `the fleet stops: ${id} is not started`, { hint: 'start it again' })
}
