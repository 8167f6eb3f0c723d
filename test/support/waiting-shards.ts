import { newRandomUuid, newTimeOrderedUuid } from '../../src/base/random.ts'
import type { ShardName, TransactionId } from '../../src/directory/topology.ts'
import { Connection } from '../../src/postgres/connection.ts'
import { installSchema } from '../../src/postgres/schema.ts'
import type { Settings } from '../../src/postgres/server/data-directory.ts'
import type { LocalServer } from '../../src/postgres/server/local-server.ts'
import type { TransactionEnvironment } from '../../src/transaction/environment.ts'
import type { TransactRequest } from '../../src/transaction/transaction.ts'
import { acknowledgedBy, startAcknowledging, untilInForce } from './acknowledging-follower.ts'
import { gatewayOf, request } from './approval.ts'
import type { Running } from './archive.ts'
import type { FreshDatabase } from './database.ts'
import type { GatewayOptions } from './database-shards.ts'
import { DatabaseShards, home } from './database-shards.ts'
import { eventually } from './eventually.ts'
import { ServerYard } from './servers.ts'

/** A follower that never comes. */
export const missing = 'ANY 1 (missing)'
export const nobody = ''
const settings = { wal_level: 'logical', max_connections: 200, max_prepared_transactions: 16, fsync: false } as const
/** For gateways that are to run into their deadlines; what has to succeed is asked of another. */
export const quick = { commitWithinMs: 400, outcomeWithinMs: 400, serviceWithinMs: 300 } as const

/** A caller that chose the id is tried once, and hears of the abort. */
export const tried = (subject: string): TransactRequest =>
  request(subject, { transactionId: newTimeOrderedUuid() as TransactionId })

/** One who is no follower of the shards, and would acknowledge if he were asked. */
const stranger = 'stranger'
export const strangers = `ANY 1 (${stranger})`

/** Shards on a server of their own, whose commits can be made to wait for a follower that never comes, or for nobody. */
export class WaitingShards {
  readonly shards: DatabaseShards
  readonly #yard: ServerYard
  readonly #server: LocalServer
  #follower: Running | undefined

  private constructor(yard: ServerYard, server: LocalServer, follower: Running, shards: DatabaseShards) {
    this.#yard = yard
    this.#server = server
    this.#follower = follower
    this.shards = shards
  }

  static async open(): Promise<WaitingShards> {
    const yard = await ServerYard.open()
    const server = await yard.primary('alone', settings)
    const follower = startAcknowledging(yard.target(server))
    await name(yard, server, acknowledgedBy)
    return new WaitingShards(yard, server, follower, await DatabaseShards.open(() => makeDatabase(yard, server)))
  }

  /** From here on commits wait for these followers; for none when the names are empty. */
  followers(names: string): Promise<void> {
    return name(this.#yard, this.#server, names)
  }

  /** As `followers`, for whoever looks himself when they are in force. */
  async beginFollowers(names: string): Promise<void> {
    await this.#server.configure(settingsWith(names))
  }

  /** Somebody changes whom commits wait for, and tells the server; in force when this resolves. */
  async changeNames(names: string): Promise<void> {
    await this.shards.rows(home, `alter system set synchronous_standby_names = '${names}'`)
    await this.shards.rows(home, 'select pg_reload_conf()')
    await untilInForce(this.#yard.target(this.#server), names)
  }

  /** And puts it back. The sessions of gateways hear of it; nobody else does before the next who tells the server. */
  async putNamesBack(): Promise<void> {
    await this.shards.rows(home, 'alter system reset synchronous_standby_names')
    const sessions = `select pid from pg_stat_activity where usename = 'holdfast_gateway'`
    for (const { pid } of await this.shards.rows<{ pid: number }>(home, sessions)) process.kill(pid, 'SIGHUP')
  }

  /** Lets one acknowledge who is no follower, until what comes back is called. */
  startStranger(): Running {
    return startAcknowledging(this.#yard.target(this.#server), stranger)
  }

  async stopFollower(): Promise<void> {
    await this.#follower?.stop()
    this.#follower = undefined
  }

  startFollower(): void {
    this.#follower ??= startAcknowledging(this.#yard.target(this.#server))
  }

  /** How many backends wait for followers. */
  async waiters(): Promise<number> {
    return (await this.shards.rows(home, `select from pg_stat_activity where wait_event = 'SyncRep'`)).length
  }

  /** Signals the one backend of a shard that waits for followers, once there is one. */
  async signalWaiter(shard: ShardName, signal: 'pg_cancel_backend' | 'pg_terminate_backend'): Promise<void> {
    await eventually(async () => {
      const rows = await this.shards.rows(
        shard,
        `select ${signal}(pid) from pg_stat_activity where wait_event = 'SyncRep' and datname = current_database()`,
      )
      return rows.length > 0
    })
  }

  gateway(options: GatewayOptions = {}): Promise<TransactionEnvironment> {
    return gatewayOf(this.shards, options)
  }

  async close(): Promise<void> {
    await this.shards.close()
    await this.stopFollower()
    await this.#yard[Symbol.asyncDispose]()
  }
}

/** As the supervisor writes them. */
function settingsWith(names: string): Settings {
  return { ...settings, synchronous_standby_names: names, 'holdfast.followers': names }
}

async function name(yard: ServerYard, server: LocalServer, names: string): Promise<void> {
  await server.configure(settingsWith(names))
  await untilInForce(yard.target(server), names)
}

async function makeDatabase(yard: ServerYard, server: LocalServer): Promise<FreshDatabase> {
  const database = `t_${newRandomUuid().replaceAll('-', '')}`
  const root = await yard.connect(server)
  await root.query(`create database ${database}`)
  root.release()
  const target = (role = 'holdfast_admin') => ({ ...yard.target(server), database, user: role })
  const admin = await Connection.connect(target(), 10_000)
  await installSchema(admin)
  for (const role of ['holdfast_gateway', 'holdfast_app']) {
    await admin.query('call holdfast.set_role_password($1, $2)', [role, yard.password])
  }
  admin.release()
  return { name: database, target, drop: () => Promise.resolve() }
}
