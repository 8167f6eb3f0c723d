import { HoldfastError } from '../../base/errors.ts'
import type { ShardName } from '../../directory/topology.ts'
import type { ConnectionTarget } from '../../postgres/statement.ts'
import { administer } from '../administer.ts'
import type { SqlFile } from '../../postgres/release.ts'
import { checksumOf, readSqlFiles } from '../../postgres/release.ts'
import { readMigrations } from '../../postgres/schema.ts'
import type { DomainConfig, FleetConfig } from '../config.ts'
import { domainsOn, ownerOf, schemaFailure } from '../founding.ts'

/** Where a shard is; of one whose servers are gone, the server that a cutover takes in. */
export interface ShardPlace {
  readonly shard: ShardName
  readonly isAlive: boolean
  readonly target: ConnectionTarget
}

/**
 * A cutover brings what it takes in to the migrations of the folders as they are, behind its point of no return and only on the
 * shards that it switches. So the fleet has to have had each: a shard that is gone may have had what another has. Throws
 * `check_failed` for a file that was added or changed since the fleet was started, `config_invalid` for a folder that is gone.
 */
export async function requireRolledOut(
  config: Pick<FleetConfig, 'domains'>,
  places: readonly ShardPlace[],
): Promise<void> {
  const domains = new Map<DomainConfig, ShardPlace[]>()
  for (const place of places) {
    for (const domain of domainsOn(config, place.shard)) domains.set(domain, [...(domains.get(domain) ?? []), place])
  }
  for (const [domain, on] of domains) {
    if (domain.schema === null) continue
    const files = await readSqlFiles(domain.schema).catch((error: unknown) => {
      throw schemaFailure(error, domain)
    })
    const had = await Promise.all(on.map((place) => migrationsAt(place, domain)))
    const hasHad = ({ applied }: Had, file: SqlFile) => applied.get(file.name) === checksumOf([file])
    for (const one of had) {
      const enough = one.isAlive ? [one] : had
      const missing = files.filter((file) => !enough.some((other) => hasHad(other, file)))
      if (missing.length > 0) throw notRolledOut(domain, one.shard, missing)
    }
  }
}

interface Had extends ShardPlace {
  /** Name to checksum. */
  readonly applied: ReadonlyMap<string, string>
}

async function migrationsAt(place: ShardPlace, { name }: DomainConfig): Promise<Had> {
  const applied = await administer(place.target, (admin) => readMigrations(admin, ownerOf(name)))
  return { ...place, applied }
}

function notRolledOut({ name, schema }: DomainConfig, shard: ShardName, missing: readonly SqlFile[]): HoldfastError {
  const migrations = missing.map((file) => file.name)
  return new HoldfastError(
    'check_failed',
    `${shard} never had ${migrations.join(', ')} of domain ${name} as ${schema} has it`,
    {
      hint: 'start the fleet with it first, or put the folder back to what the fleet was started with; a cutover that was broken off while it fenced goes on when it is run again, or is abandoned',
      detail: { shard, migrations },
    },
  )
}
