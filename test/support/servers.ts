import { chmod, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { newRandomUuid } from '../../src/base/random.ts'
import type { ConnectionTarget } from '../../src/postgres/statement.ts'
import { Connection } from '../../src/postgres/connection.ts'
import type { PostgresBinaries } from '../../src/postgres/server/binaries.ts'
import { defaultCacheRoot, locatePostgres } from '../../src/postgres/server/binaries.ts'
import type { Settings } from '../../src/postgres/server/data-directory.ts'
import { initialiseDataDir } from '../../src/postgres/server/data-directory.ts'
import { LocalServer } from '../../src/postgres/server/local-server.ts'
import type { ServerUser } from '../../src/postgres/server/server-user.ts'
import { serverUser } from '../../src/postgres/server/server-user.ts'

/** Servers of one test file's own, for what the shared server cannot show: crashes, followers, full disks. */
export class ServerYard {
  readonly root: string
  readonly binaries: PostgresBinaries
  readonly user: ServerUser | undefined
  readonly password = newRandomUuid()
  readonly #servers: LocalServer[] = []

  private constructor(root: string, binaries: PostgresBinaries, user: ServerUser | undefined) {
    this.root = root
    this.binaries = binaries
    this.user = user
  }

  static async open(): Promise<ServerYard> {
    const user = await serverUser()
    const binaries = await locatePostgres(await defaultCacheRoot(user), user)
    const root = await mkdtemp(join(tmpdir(), 'hfy-'))
    await chmod(root, 0o711)
    return new ServerYard(root, binaries, user)
  }

  /** A server that is not initialised and not started. */
  server(name: string, settings: Settings = {}, binaries: PostgresBinaries = this.binaries): LocalServer {
    const server = new LocalServer({
      binaries,
      user: this.user,
      dataDir: join(this.root, name),
      socketDir: join(this.root, `${name}.s`),
      port: 5432,
      logFile: join(this.root, `${name}.log`),
      settings,
    })
    this.#servers.push(server)
    return server
  }

  /** An initialised, started server. */
  async primary(name: string, settings: Settings = {}): Promise<LocalServer> {
    const server = this.server(name, settings)
    await this.initialise(server)
    await server.start()
    return server
  }

  initialise(server: LocalServer, binaries: PostgresBinaries = this.binaries): Promise<void> {
    const { user, password } = this
    return initialiseDataDir({ binaries, user, dataDir: server.dataDir, superuser: 'holdfast_admin', password })
  }

  target(server: LocalServer): ConnectionTarget {
    const { password } = this
    const place = { host: server.socketDir, port: server.port, database: 'postgres' }
    return { ...place, user: 'holdfast_admin', password, applicationName: 'test' }
  }

  connect(server: LocalServer): Promise<Connection> {
    return Connection.connect(this.target(server), 10_000)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.#servers.map((server) => server.stop('immediate')))
    await rm(this.root, { recursive: true, force: true, maxRetries: 5 })
  }
}
