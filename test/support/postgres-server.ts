import { rmSync } from 'node:fs'
import { chmod, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { TestProject } from 'vitest/node'
import { newRandomUuid } from '../../src/base/random.ts'
import type { ConnectionTarget } from '../../src/postgres/statement.ts'
import { Connection } from '../../src/postgres/connection.ts'
import { installSchema } from '../../src/postgres/schema.ts'
import { defaultCacheRoot, locatePostgres } from '../../src/postgres/server/binaries.ts'
import { initialiseDataDir } from '../../src/postgres/server/data-directory.ts'
import { LocalServer } from '../../src/postgres/server/local-server.ts'
import { serverUser } from '../../src/postgres/server/server-user.ts'
import { acknowledgedBy, startAcknowledging, untilInForce } from './acknowledging-follower.ts'
import type { Running } from './archive.ts'

/**
 * The one server that all tests of project `postgres` share; each test file takes databases of its own. Its commits wait for
 * a follower, as those of a shard of durability quorum have to.
 */
export interface SharedServer {
  readonly host: string
  readonly port: number
  readonly superuser: string
  readonly passwords: Readonly<Record<string, string>>
  readonly template: string
  readonly version: string
}

declare module 'vitest' {
  interface ProvidedContext {
    postgres: SharedServer
  }
}

const port = 5432
const superuser = 'holdfast_admin'
const template = 'holdfast_template'

export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  const user = await serverUser()
  const binaries = await locatePostgres(await defaultCacheRoot(user), user)
  const root = await mkdtemp(join(tmpdir(), 'hft-'))
  await chmod(root, 0o711)
  const password = newRandomUuid()
  const settings = {
    wal_level: 'logical',
    max_prepared_transactions: 64,
    max_connections: 200,
    max_wal_senders: 20,
    max_replication_slots: 20,
    fsync: false,
    log_statement: 'none',
  } as const
  const server = new LocalServer({
    binaries,
    user,
    dataDir: join(root, 'data'),
    socketDir: join(root, 's'),
    port,
    logFile: join(root, 'server.log'),
    settings,
  })
  const removeAtExit = () => {
    if (server.pid !== undefined) process.kill(server.pid, 'SIGQUIT')
    rmSync(root, { recursive: true, force: true, maxRetries: 5 })
  }
  process.once('exit', removeAtExit)
  let follower: Running | undefined
  const teardown = async () => {
    await follower?.stop()
    await server.stop('immediate')
    await rm(root, { recursive: true, force: true, maxRetries: 5 })
    process.off('exit', removeAtExit)
  }
  try {
    await initialiseDataDir({ binaries, user, dataDir: server.dataDir, superuser, password })
    await server.start()
    const passwords = { [superuser]: password, ...(await createTemplate(server, password)) }
    const admin = { host: server.socketDir, port, user: superuser, password, database: 'postgres', applicationName: '' }
    follower = startAcknowledging(admin)
    await server.configure({ ...settings, synchronous_standby_names: acknowledgedBy })
    await untilInForce(admin, acknowledgedBy)
    project.provide('postgres', {
      host: server.socketDir,
      port,
      superuser,
      passwords,
      template,
      version: binaries.version,
    })
  } catch (error) {
    await teardown()
    throw error
  }
  return teardown
}

/** Installs the schema in a database that tests copy, and gives every role a password. */
async function createTemplate(server: LocalServer, password: string): Promise<Record<string, string>> {
  const admin = { host: server.socketDir, port, user: superuser, password, applicationName: 'test-setup' }
  await withConnection({ ...admin, database: 'postgres' }, (connection) =>
    connection.query(`create database ${template}`),
  )
  const logins = ['holdfast_gateway', 'holdfast_app', 'holdfast_replication']
  const passwords = Object.fromEntries(logins.map((name) => [name, newRandomUuid()]))
  await withConnection({ ...admin, database: template }, async (connection) => {
    await installSchema(connection)
    for (const [name, secret] of Object.entries(passwords)) {
      // Many test files share the server, so the limit of one application's connections is lifted.
      await connection.query(`alter role ${name} connection limit -1 password '${secret}'`)
    }
  })
  return passwords
}

async function withConnection(
  target: ConnectionTarget,
  use: (connection: Connection) => Promise<unknown>,
): Promise<void> {
  const connection = await Connection.connect(target, 10_000)
  try {
    await use(connection)
  } finally {
    connection.release()
  }
}
