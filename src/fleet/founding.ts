import { ArchiveFolder } from '../archive/archive-folder.ts'
import { HoldfastError } from '../base/errors.ts'
import { type DataClass, type DomainEntry, initialPlacements, tenantHome } from '../directory/directory.ts'
import type { HistoryId, ShardName } from '../directory/topology.ts'
import type { Connection } from '../postgres/connection.ts'
import { withConnection } from '../postgres/postgres.ts'
import { applyMigrations, installSchema, readSqlFiles } from '../postgres/schema.ts'
import { initialiseDataDir } from '../postgres/server/data-directory.ts'
import type { Settings } from '../postgres/server/data-directory.ts'
import { newRandomUuid, randomBytes } from '../base/random.ts'
import type { DomainConfig, FleetConfig, ShardConfig } from './config.ts'
import type { FleetKeys } from './keys.ts'
import { roleNames } from './keys.ts'
import { databaseName, type FleetServers } from './servers.ts'

/** Makes the first primary of a shard: an empty cluster, the schema, the application's tables, the directory. */

export interface FoundedShard {
  readonly historyId: HistoryId
}

/**
 * A new cluster cannot go on with the archive of an earlier one, and whoever lost a data directory wants that archive
 * more than an empty fleet. Throws `config_invalid`, before anything is made.
 */
export async function requireUnusedArchives({ shards }: Pick<FleetConfig, 'shards'>): Promise<void> {
  for (const { name, archive } of shards.values()) {
    if (archive === null) continue
    const folder = new ArchiveFolder(archive.path, name)
    if ((await folder.identity()) === undefined) continue
    throw new HoldfastError('config_invalid', `${folder.path} is the archive of an earlier fleet`, {
      hint: 'move it away, or configure another archive; nothing was started',
      detail: { shard: name },
    })
  }
}

export async function foundShard(
  servers: FleetServers,
  config: FleetConfig,
  keys: FleetKeys,
  shard: ShardConfig,
  node: { readonly id: string; readonly folder: string; readonly settings: Settings },
): Promise<FoundedShard> {
  const dataDir = servers.dataDirOf(node.folder)
  await servers.removeDirectory(node.folder)
  await initialiseDataDir({
    binaries: servers.binaries,
    user: servers.user,
    dataDir,
    superuser: 'holdfast_admin',
    password: keys.passwords.holdfast_admin,
  })
  const address = await servers.start({ id: node.id, dataDir, settings: stringSettings(node.settings) })
  const target = servers.adminTarget(address)
  await withConnection({ ...target, database: 'postgres' }, (admin) => admin.script(`create database ${databaseName}`))
  return withConnection(target, async (admin) => {
    await installSchema(admin)
    for (const role of roleNames)
      await admin.query('call holdfast.set_role_password($1, $2)', [role, keys.passwords[role]])
    const historyId = newRandomUuid() as HistoryId
    await admin.query('call holdfast.found_shard($1, $2, $3, $4, $5, $6)', [
      config.fleet,
      shard.name,
      shard.durability,
      historyId,
      config.maxClockOffsetMs,
      Buffer.from(randomBytes(32)),
    ])
    await installDomains(admin, config, shard.name)
    await writePlacements(admin, config)
    return { historyId }
  })
}

/** Brings the application's tables of a shard to what the configuration says. Again at will. */
export async function installDomains(admin: Connection, config: FleetConfig, shard: ShardName): Promise<void> {
  for (const domain of domainsOn(config, shard)) {
    if (domain.schema !== null) await applyMigrations(admin, `domain ${domain.name}`, await readSqlFiles(domain.schema))
    for (const table of domain.tables) await govern(admin, table, domain.name, domain.class)
  }
}

/**
 * Which domains have tables on a shard: those at home everywhere, because any tenant may come to live there; a
 * pinned one where it is pinned; reference data everywhere; derived data where it is built.
 */
export function domainsOn(config: Pick<FleetConfig, 'domains'>, shard: ShardName): DomainConfig[] {
  return [...config.domains.values()].filter(
    (domain: DomainEntry) =>
      domain.class === 'reference' || domain.placement === tenantHome || domain.placement === shard,
  )
}

async function govern(admin: Connection, table: string, domain: string, dataClass: DataClass): Promise<void> {
  await admin.query('call holdfast.govern(format($1, $2::text)::regclass, $3, $4)', ['%I', table, domain, dataClass])
}

/** The placements that no row knows yet; rows are the truth from then on. */
export async function writePlacements(admin: Connection, config: FleetConfig): Promise<void> {
  const rows = initialPlacements(config.domains.values(), config.tenants.values()).map((placement) => ({
    tenant: placement.tenant,
    domain: placement.domain,
    shard: placement.shard,
    version: placement.version,
    policy: placement.policy,
    policy_version: placement.policyVersion,
    service: placement.service,
  }))
  await admin.query(
    `insert into holdfast.placement (tenant, domain, shard, version, policy, policy_version, service)
     select r.tenant, r.domain, r.shard, r.version, coalesce(r.policy, 'null'::jsonb), r.policy_version, r.service
     from jsonb_to_recordset($1::jsonb) r(tenant text, domain text, shard text, version integer, policy jsonb,
       policy_version integer, service text)
     on conflict (tenant, domain) do nothing`,
    [JSON.stringify(rows)],
  )
}

export function stringSettings(settings: Settings): Record<string, string> {
  return Object.fromEntries(
    Object.entries(settings).map(([name, value]) => [
      name,
      value === true ? 'on' : value === false ? 'off' : String(value),
    ]),
  )
}
