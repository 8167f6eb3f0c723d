import { rmSync } from 'node:fs'
import { chmod, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import pg from 'pg'
import type { TestProject } from 'vitest/node'
import { newRandomUuid } from '../../src/base/random.ts'
import { defaultCacheRoot, locatePostgres } from '../../src/postgres/server/binaries.ts'
import { initialiseDataDir } from '../../src/postgres/server/data-directory.ts'
import { LocalServer } from '../../src/postgres/server/local-server.ts'
import { serverUser } from '../../src/postgres/server/server-user.ts'

/** The one server that all tests of project `postgres` share; each test file takes databases of its own. */
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
  const server = new LocalServer({
    binaries,
    user,
    dataDir: join(root, 'data'),
    socketDir: join(root, 's'),
    port,
    logFile: join(root, 'server.log'),
    settings: {
      wal_level: 'logical',
      max_prepared_transactions: 64,
      max_connections: 200,
      max_wal_senders: 20,
      max_replication_slots: 20,
      fsync: false,
      log_statement: 'none',
    },
  })
  const removeAtExit = () => {
    if (server.pid !== undefined) process.kill(server.pid, 'SIGQUIT')
    rmSync(root, { recursive: true, force: true, maxRetries: 5 })
  }
  process.once('exit', removeAtExit)
  const teardown = async () => {
    await server.stop('immediate')
    await rm(root, { recursive: true, force: true, maxRetries: 5 })
    process.off('exit', removeAtExit)
  }
  try {
    await initialiseDataDir({ binaries, user, dataDir: server.dataDir, superuser, password })
    await server.start()
    const passwords = { [superuser]: password, ...(await createTemplate(server, password)) }
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

async function createTemplate(server: LocalServer, password: string): Promise<Record<string, string>> {
  const admin = { host: server.socketDir, port, user: superuser, password }
  const client = new pg.Client({ ...admin, database: 'postgres' })
  await client.connect()
  const logins = ['holdfast_gateway', 'holdfast_app', 'holdfast_replication']
  const passwords = Object.fromEntries(logins.map((name) => [name, newRandomUuid()]))
  try {
    await client.query('create role holdfast_owner nologin')
    for (const [name, secret] of Object.entries(passwords)) {
      const attributes = name === 'holdfast_replication' ? 'login replication' : 'login'
      await client.query(`create role ${name} ${attributes} password '${secret}'`)
    }
    await client.query(`create database ${template} owner holdfast_owner`)
  } finally {
    await client.end()
  }
  return passwords
}
