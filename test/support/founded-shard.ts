import { join } from 'node:path'
import { vi } from 'vitest'
import { ArchiveFolder } from '../../src/archive/archive-folder.ts'
import type { Durability } from '../../src/directory/topology.ts'
import { Connection } from '../../src/postgres/connection.ts'
import type { LocalServer } from '../../src/postgres/server/local-server.ts'
import type { Running, RunningRedo } from './archive.ts'
import { startRedo, testShard } from './archive.ts'
import { archiveSettings, followServer, foundShard, shardTarget } from './archive-shard.ts'
import { ServerYard } from './servers.ts'

/** A founded shard of one server, which takes commits; one of durability `quorum` has a follower that acknowledges them. */
export class FoundedShard implements AsyncDisposable {
  readonly yard: ServerYard
  readonly server: LocalServer
  readonly admin: Connection
  /** Where its archive goes. */
  readonly root: string
  readonly #follower: Running | undefined

  private constructor(yard: ServerYard, server: LocalServer, admin: Connection, follower: Running | undefined) {
    this.yard = yard
    this.server = server
    this.admin = admin
    this.root = join(yard.root, 'archive')
    this.#follower = follower
  }

  static async open(durability: Durability): Promise<FoundedShard> {
    const yard = await ServerYard.open()
    const server = await yard.primary('primary', archiveSettings)
    await foundShard(yard, server, durability)
    const follower = durability === 'quorum' ? await followServer(yard, server, archiveSettings) : undefined
    return new FoundedShard(yard, server, await connectAdmin(yard, server), follower)
  }

  readonly target = () => shardTarget(this.yard, this.server)

  connect(): Promise<Connection> {
    return connectAdmin(this.yard, this.server)
  }

  stream(): RunningRedo {
    return startRedo(new ArchiveFolder(this.root, testShard), this.target)
  }

  /** So many slots are being read. */
  async streaming(slots: number): Promise<void> {
    await vi.waitUntil(async () => {
      const { rowCount } = await this.admin.query('select from pg_replication_slots where active')
      return rowCount === slots
    })
  }

  /** Stop what streams first. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.admin.release()
    await this.#follower?.stop()
    await this.yard[Symbol.asyncDispose]()
  }
}

export function connectAdmin(yard: ServerYard, server: LocalServer): Promise<Connection> {
  return Connection.connect(shardTarget(yard, server, 'holdfast_admin'), 10_000)
}
