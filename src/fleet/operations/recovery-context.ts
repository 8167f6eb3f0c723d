import type { ShardArchive } from '../../archive/archive.ts'
import type { Progress } from '../../base/progress.ts'
import { birthRegion, Directory, tenantHome } from '../../directory/directory.ts'
import type { RegionName, ShardName } from '../../directory/topology.ts'
import { readSqlFiles } from '../../postgres/release.ts'
import { migrationOwner } from '../../postgres/schema.ts'
import { loadInvariants } from '../../recovery/invariant.ts'
import type { Delivery } from '../../recovery/invariant-check.ts'
import type { AllowList, PlaceQuestion } from '../../recovery/invariant-place.ts'
import type { RecoveryContext } from '../../recovery/recovery.ts'
import type { MigrationFiles } from '../../recovery/redo-migration.ts'
import { readDeliveries } from '../../transaction/outbox/delivery-journal.ts'
import { archiveOf } from '../archives.ts'
import { jurisdictionsOf } from '../config.ts'
import { ownerOf, stringSettings } from '../founding.ts'
import { journalPath } from '../journal-path.ts'
import { nodeSettings } from '../node-settings.ts'
import { nodeOf } from '../shard-servers.ts'
import type { Supervisor } from '../supervisor.ts'
import { placementsOn } from './placements.ts'

/** What recovery needs to know of an embedded fleet, as it is now. Throws `config_invalid` when a shard has no archive. */
export async function recoveryContext(supervisor: Supervisor, progress: Progress): Promise<RecoveryContext> {
  const { config, home, keys, servers, clock, onStep, release } = supervisor
  const shards = [...config.shards.keys()]
  const archives = await Promise.all(
    shards.map(async (shard) => [shard, await archiveOf(config, shard)] as [ShardName, ShardArchive]),
  )
  const { directory, regions, primaries, allowLists } = await placeQuestion(supervisor)
  const { holdfast_gateway, holdfast_app, holdfast_replication } = keys.passwords
  return {
    fleet: config.fleet,
    host: servers,
    user: servers.user,
    archives: new Map(archives),
    // Where the shard's authority is now, a copy of it is legal as well.
    environmentRegions: primaries,
    serverSettings: stringSettings(nodeSettings(servers.binaries.major)),
    environmentsDir: home.environmentsDir,
    drillsDir: home.drillsDir,
    directory,
    regions,
    allowLists,
    invariants: config.invariants === null ? [] : await loadInvariants(config.invariants),
    deliveries: () => allDeliveries(supervisor),
    release,
    migrationFiles: migrationFilesOf(supervisor),
    rolePasswords: { holdfast_gateway, holdfast_app, holdfast_replication },
    clock,
    onStep,
    progress,
  }
}

/** By the owner that a migration has in the database. */
function migrationFilesOf({ config, release }: Supervisor): MigrationFiles {
  return async (owner) => {
    if (owner === migrationOwner) return release.migrations
    const domain = [...config.domains.values()].find(({ name }) => ownerOf(name) === owner)
    return domain?.schema == null ? [] : readSqlFiles(domain.schema)
  }
}

/** Where rows are, and where the law lets columns meet. */
export async function placeQuestion(supervisor: Supervisor): Promise<PlaceQuestion> {
  const { config, topology } = supervisor
  const shards = [...config.shards.keys()]
  const placements = await Promise.all(shards.map((shard) => placementsOn(supervisor, shard)))
  return {
    directory: Directory.of(config.domains.values(), placements.flat()),
    regions: jurisdictionsOf(config.regions),
    primaries: new Map(shards.map((name) => [name, primaryRegion(topology.shard(name))])),
    allowLists: allowListsOf(supervisor),
  }
}

function primaryRegion(shard: Parameters<typeof nodeOf>[0]): RegionName {
  return nodeOf(shard, shard.primary).region
}

/** A derived domain lists the columns that may be where it is built. */
function allowListsOf({ config, topology }: Supervisor): AllowList[] {
  return [...config.domains.values()].flatMap(({ placement, from }) => {
    if (placement === tenantHome) return []
    const known = topology.document.shards[placement]
    const region = known === undefined ? birthRegion(placement) : primaryRegion(known)
    return [...from].flatMap(([domain, tables]) =>
      [...tables].map(([table, columns]) => ({ domain, table, columns, region })),
    )
  })
}

/** Every line of every journal of deliveries. */
export async function allDeliveries({ config, home }: Supervisor): Promise<Delivery[]> {
  const deliveries: Delivery[] = []
  for (const shard of config.shards.keys()) {
    for await (const { eventId, transactionId, tenant, name, state } of readDeliveries(journalPath(home, shard))) {
      deliveries.push({ event_id: eventId, transaction_id: transactionId, tenant, name, state })
    }
  }
  return deliveries
}
