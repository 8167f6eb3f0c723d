import { HoldfastError } from '../base/errors.ts'
import type { ShardName } from '../directory/topology.ts'
import type { Connection } from '../postgres/connection.ts'
import { withConnection } from '../postgres/postgres.ts'
import type { FleetConfig } from './config.ts'
import { installDomains, placementsOf, writeClockOffset, writePlacements } from './founding.ts'
import type { ShardServers } from './shard-servers.ts'
import { nodeOf } from './shard-servers.ts'
import type { ShardDocument } from './topology-store.ts'

/**
 * What a start does on every shard behind its barrier, before anybody is let in: its relations are seen to survive a crash, and
 * it takes up what the configuration gained. A shard that the start left out has it done whenever it opens, and by whom.
 */
export class TakingUp {
  readonly #config: FleetConfig
  readonly #shardServers: ShardServers
  readonly #due = new Set<ShardName>()

  constructor(config: FleetConfig, shardServers: ShardServers) {
    this.#config = config
    this.#shardServers = shardServers
  }

  expect(names: readonly ShardName[]): void {
    for (const name of names) this.#due.add(name)
  }

  /** Nothing where it was done since the fleet was started: what changed in files since then is for the next start. */
  async run(name: ShardName, shard: ShardDocument): Promise<void> {
    if (!this.#due.has(name)) return
    const primary = nodeOf(shard, shard.primary)
    await withConnection(this.#shardServers.adminTarget(primary), async (admin) => {
      await requirePermanent(admin, primary.id)
      // Migrations, tables, domains, tenants, another bound on clocks.
      await writeClockOffset(admin, this.#config)
      await installDomains(admin, this.#config, name)
      await writePlacements(admin, placementsOf(this.#config))
    })
    this.#due.delete(name)
  }
}

/** HZ-C3: an unlogged clock would start again from nothing after a crash. */
async function requirePermanent(admin: Connection, id: string): Promise<void> {
  const { rows } = await admin.query<{ relation: string }>('select holdfast.impermanent_relations() as relation')
  if (rows.length === 0) return
  throw new HoldfastError(
    'check_failed',
    `relations of ${id} would not survive a crash: ${rows.map((row) => row.relation).join(', ')}`,
    {
      hint: 'alter table ... set logged',
    },
  )
}
