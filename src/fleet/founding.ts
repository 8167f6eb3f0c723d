import { ArchiveFolder } from '../archive/archive-folder.ts'
import { HoldfastError } from '../base/errors.ts'
import {
  type DataClass,
  type DomainEntry,
  initialPlacements,
  type Placement,
  placementFromRow,
  type PlacementRow,
  tenantHome,
} from '../directory/directory.ts'
import type { HistoryId, ShardName } from '../directory/topology.ts'
import { type Connection } from '../postgres/connection.ts'
import { ServerError } from '../postgres/failure.ts'
import { withConnection } from '../postgres/postgres.ts'
import { sqlState } from '../postgres/sqlstate.ts'
import type { Release } from '../postgres/release.ts'
import { readSqlFiles } from '../postgres/release.ts'
import { applyMigrations } from '../postgres/schema.ts'
import { longWithinMs } from './administer.ts'
import { initialiseDataDir } from '../postgres/server/data-directory.ts'
import type { Settings } from '../postgres/server/data-directory.ts'
import { newRandomUuid } from '../base/random.ts'
import type { DomainConfig, FleetConfig, ShardConfig } from './config.ts'
import type { FleetKeys } from './keys.ts'
import { roleNames } from './keys.ts'
import { databaseName, type FleetServers } from './servers.ts'
import { bringToRelease } from './upgrade.ts'

/** Makes the first primary of a shard: an empty cluster, the schema, the application's tables, the directory. */

const lockWithinMs = 5_000

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
  release: Release,
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
    await bringToRelease(admin, shard.name, release)
    for (const role of roleNames)
      await admin.query('call holdfast.set_role_password($1, $2)', [role, keys.passwords[role]])
    const historyId = newRandomUuid() as HistoryId
    await admin.query('call holdfast.found_shard($1, $2, $3, $4, $5)', [
      config.fleet,
      shard.name,
      shard.durability,
      historyId,
      config.maxClockOffsetMs,
    ])
    await installDomains(admin, config, shard.name)
    await writePlacements(admin, placementsOf(config))
    return { historyId }
  })
}

/** Whose migrations those of a domain are. */
export const ownerOf = (domain: string) => `domain ${domain}`

/**
 * Brings the application's tables of a shard to what the configuration says. Again at will. Throws `config_invalid` for what
 * is wrong with them.
 */
export async function installDomains(
  admin: Connection,
  config: Pick<FleetConfig, 'domains'>,
  shard: ShardName,
): Promise<void> {
  for (const domain of domainsOn(config, shard)) {
    const { name, schema, tables } = domain
    try {
      await admin.query(`set lock_timeout = '${lockWithinMs}ms'`)
      if (schema !== null) {
        await applyMigrations(admin, ownerOf(name), await readSqlFiles(schema), longWithinMs)
      }
      for (const table of tables) await govern(admin, table, name, domain.class)
    } catch (error) {
      throw schemaFailure(error, domain)
    }
  }
  await requireConfinedViews(admin)
}

/**
 * A view or rule acts by the rights of its owner, whom row security does not hold, and the guard leaves statements of the
 * application to it. Through one that reaches a regulated table every tenant would see, and write, the rows of all.
 */
async function requireConfinedViews(admin: Connection): Promise<void> {
  const { rows } = await admin.query<{ relation: string }>(
    `with recursive acts (relation, upon) as (
       select r.ev_class, d.refobjid
       from pg_rewrite r join pg_depend d on d.classid = 'pg_rewrite'::regclass and d.objid = r.oid
       where d.refclassid = 'pg_class'::regclass and d.refobjid <> r.ev_class
       union
       select a.relation, d.refobjid
       from acts a join pg_rewrite r on r.ev_class = a.upon
       join pg_depend d on d.classid = 'pg_rewrite'::regclass and d.objid = r.oid
       where d.refclassid = 'pg_class'::regclass
     )
     select c.oid::regclass::text as relation
     from pg_class c
     where exists (select from acts a join holdfast.governed g on g.relation::regclass = a.upon
                   where a.relation = c.oid and g.data_class = 'regulated')
       and not exists (select from pg_options_to_table(c.reloptions) o
                       where o.option_name = 'security_invoker' and o.option_value::boolean)
       and (has_any_column_privilege('holdfast_app', c.oid, 'select, insert, update')
            or has_table_privilege('holdfast_app', c.oid, 'delete'))
     order by 1`,
  )
  const [first] = rows
  if (first === undefined) return
  throw new HoldfastError(
    'config_invalid',
    `${first.relation} shows or changes regulated rows, whatever their tenant`,
    {
      hint: 'create it with (security_invoker = true), or grant holdfast_app nothing on it',
      detail: { relations: rows.map(({ relation }) => relation) },
    },
  )
}

/** The application's tables are a part of its configuration. */
export function schemaFailure(error: unknown, { name, schema }: DomainConfig): unknown {
  if (error instanceof ServerError && error.sqlState === sqlState.lockNotAvailable) {
    return new HoldfastError('node_unavailable', `domain ${name}: a transaction in doubt holds a table that changes`, {
      hint: 'start with the configuration as it was, which settles it, and then with the new one',
      cause: error,
    })
  }
  if (error instanceof ServerError && !isOfServer(error)) {
    return new HoldfastError('config_invalid', `domain ${name}: ${error.message} (SQLSTATE ${error.sqlState})`, {
      hint: schema === null ? 'name the folder that makes its tables as `schema`' : `its tables are made in ${schema}`,
      cause: error,
    })
  }
  if (error instanceof Error && 'code' in error && /^E[A-Z0-9]+$/.test(String(error.code))) {
    const isMissing = error.code === 'ENOENT' || error.code === 'ENOTDIR'
    const what = isMissing ? `there is no folder ${schema}` : `${schema} cannot be read: ${error.message}`
    return new HoldfastError('config_invalid', `domain ${name}: ${what}`, {
      hint: 'the .sql files that make its tables lie there',
      cause: error,
    })
  }
  return error
}

/** Resources, operators and the system: nothing that the statement could have said otherwise. */
function isOfServer(error: ServerError): boolean {
  return /^(5[3578]|XX)/.test(error.sqlState)
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
  const { rows } = await admin.query(
    `select from holdfast.governed
     where relation = format($1, $2::text)::regclass::text and domain = $3 and data_class = $4`,
    ['%I', table, domain, dataClass],
  )
  // Governing locks the table, and after a crash a branch in doubt may hold it until gateways are there to settle it.
  if (rows.length > 0) return
  await admin.query('call holdfast.govern(format($1, $2::text)::regclass, $3, $4)', ['%I', table, domain, dataClass])
}

/** Before anything moved. */
export function placementsOf({ domains, tenants }: Pick<FleetConfig, 'domains' | 'tenants'>): Placement[] {
  return initialPlacements(domains.values(), tenants.values())
}

export async function readPlacements(admin: Connection, withinMs: number): Promise<Placement[]> {
  const { rows } = await admin.query<PlacementRow>(
    'select tenant, domain, shard, version, policy, policy_version, service from holdfast.placement',
    [],
    withinMs,
  )
  return rows.map(placementFromRow)
}

/** Those that no row knows yet; rows are the truth from then on. */
export async function writePlacements(admin: Connection, placements: readonly Placement[]): Promise<void> {
  const rows = placements.map((placement) => ({
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

/** All shards agree on `maxClockOffset`, by the configuration that they were started with last. */
export async function writeClockOffset(
  admin: Connection,
  { maxClockOffsetMs }: Pick<FleetConfig, 'maxClockOffsetMs'>,
): Promise<void> {
  await admin.query(
    'update holdfast.shard set max_clock_offset_ms = $1::integer where max_clock_offset_ms <> $1::integer',
    [maxClockOffsetMs],
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
