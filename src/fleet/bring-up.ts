import { rm } from 'node:fs/promises'
import { present } from '../base/assert.ts'
import { HoldfastError } from '../base/errors.ts'
import type { Epoch, Jurisdiction, RegionName, ShardName } from '../directory/topology.ts'
import { withConnection } from '../postgres/postgres.ts'
import { nameRelease } from '../postgres/release.ts'
import {
  foundShard,
  installDomains,
  placementsOf,
  requireUnusedArchives,
  writeClockOffset,
  writePlacements,
} from './founding.ts'
import { makeHome } from './home.ts'
import { removeLeftovers } from './leftovers.ts'
import { folderOf, nodeId } from './node-names.ts'
import { passesBarrier } from './opening.ts'
import { finishPromotion } from './promotion.ts'
import { nodeOf } from './shard-servers.ts'
import type { Supervisor } from './supervisor.ts'
import type { NodeDocument, ShardDocument, TopologyDocument } from './topology-store.ts'
import { requireUpgradable, settled, untilFollowersHave, upgradeShards } from './upgrade.ts'

/** Brings all shards of an embedded fleet up: founds them, or starts them as the topology says. */

const barrierWithinMs = 20_000

/** F4: what an earlier founding left is removed; the fleet exists once the document that comes back is stored. */
export async function foundFleet(supervisor: Supervisor): Promise<TopologyDocument> {
  const { config, home, servers } = supervisor
  await requireUnusedArchives(config)
  await rm(home.serversDir, { recursive: true, force: true })
  await makeHome(config.dataDir, servers.user)
  const shards = await Promise.all(
    [...config.shards.keys()].map(async (name) => [name, await foundShardOf(supervisor, name)] as const),
  )
  return {
    version: 1,
    fleet: config.fleet,
    regions: Object.fromEntries([...config.regions].map(([name, { jurisdiction }]) => [name, jurisdiction])) as Record<
      RegionName,
      Jurisdiction
    >,
    shards: Object.fromEntries(shards) as Record<ShardName, ShardDocument>,
  }
}

async function foundShardOf(supervisor: Supervisor, name: ShardName): Promise<ShardDocument> {
  const { config, keys, servers, shardServers, progress } = supervisor
  const shard = shardServers.shardConfig(name)
  const regions = [shard.region, ...shard.followers]
  const nodes: NodeDocument[] = []
  for (const [index, region] of regions.entries()) {
    nodes.push(await shardServers.place(nodeId(name, index + 1), region, folderOf(name, index + 1)))
  }
  const [primary, ...followers] = nodes
  const first = present(primary, 'a shard has a primary')
  progress({ step: 'found', detail: `${name}: a new cluster in ${first.region}` })
  const settings = shardServers.settingsWithoutWaiting()
  const place = { id: first.id, folder: first.folder, settings }
  const { historyId } = await foundShard(servers, config, keys, shard, place, supervisor.release)
  const document: ShardDocument = {
    durability: shard.durability,
    epoch: 1 as Epoch,
    historyId,
    state: 'open',
    primary: first.id,
    nodes,
    nextNode: nodes.length + 1,
  }
  await Promise.all(
    followers.map((follower) => {
      progress({ step: 'follow', detail: `${follower.id} in ${follower.region}` })
      return shardServers.buildFollower(first, follower)
    }),
  )
  await shardServers.reserveForArchive(name, first)
  await shardServers.applySynchronousNames(name, document)
  await shardServers.barrier(first, barrierWithinMs)
  return document
}

/**
 * No shard is changed before every shard may be, and none takes traffic before all are at this release (U2, U3). Throws
 * `config_invalid` when the configuration has a shard that the fleet was founded without, and what an upgrade throws.
 */
export async function restartFleet(supervisor: Supervisor, document: TopologyDocument): Promise<void> {
  for (const name of supervisor.config.shards.keys()) {
    if (document.shards[name] === undefined) {
      throw new HoldfastError('config_invalid', `shard ${name} was not part of this fleet when it was founded`, {
        hint: 'start it on a new data directory',
      })
    }
  }
  await removeLeftovers(supervisor, document)
  const shards = Object.keys(document.shards) as ShardName[]
  const of = (name: ShardName) => supervisor.topology.shard(name)
  for (const name of shards) requireSameDurability(supervisor, name, of(name))
  await settled(shards.map((name) => startServers(supervisor, name, of(name))))
  await settled(shards.map((name) => requireUpgradable(supervisor, name, of(name))))
  // An upgrade's commit waits for followers as well.
  await settled(shards.map((name) => supervisor.lostFollowers.replace(name)))
  await upgrade(supervisor, shards)
  await settled(shards.map((name) => restartShard(supervisor, name, of(name))))
  await settled(shards.map((name) => untilFollowersHave(supervisor, of(name))))
  for (const name of shards) supervisor.rebuilding.begin(name)
}

/** The shard's own rows say what its commits promise; a setting that says less would break it without a word. */
function requireSameDurability({ config }: Supervisor, name: ShardName, shard: ShardDocument): void {
  if (config.shards.get(name)?.durability === shard.durability) return
  throw new HoldfastError('config_invalid', `shard ${name} was founded with durability ${shard.durability}`, {
    hint: 'leave the shard and its durability in the configuration as they were, or start on a new data directory',
  })
}

/** V9: a follower that is lost keeps no shard from starting. */
async function startServers(supervisor: Supervisor, name: ShardName, shard: ShardDocument): Promise<void> {
  const { shardServers, lostFollowers, progress } = supervisor
  for (const node of shard.nodes) await shardServers.place(node.id, node.region, node.folder)
  progress({ step: 'start', detail: name })
  // The others follow, and are waited for, once it is promoted.
  if (shard.promotion !== undefined) return shardServers.ensurePrimary(shard)
  await shardServers.startPrimary(name, shard)
  const followers = shard.nodes.filter(({ id }) => id !== shard.primary)
  await Promise.all(
    followers.map((node) => lostFollowers.start(node, () => shardServers.startFollower(name, shard, node))),
  )
}

/** What is under way in a promotion is at this release already (U3). */
async function upgrade(supervisor: Supervisor, shards: readonly ShardName[]): Promise<void> {
  const { progress, release, topology } = supervisor
  const standing = shards
    .map((name) => [name, topology.shard(name)] as const)
    .filter(([, { promotion }]) => promotion === undefined)
  for (const name of await upgradeShards(supervisor, standing)) {
    progress({ step: 'upgrade', detail: `${name} to release ${nameRelease(release)}` })
  }
  await settled(standing.map(([name, shard]) => takeUpEpoch(supervisor, name, shard)))
}

/** U6: the topology follows the epoch of the data, also where a start was ended in between. */
async function takeUpEpoch(
  { shardServers, topology }: Supervisor,
  name: ShardName,
  shard: ShardDocument,
): Promise<void> {
  const { rows } = await withConnection(shardServers.adminTarget(nodeOf(shard, shard.primary)), (admin) =>
    admin.query<{ epoch: Epoch }>(
      `select s.epoch from holdfast.shard s where s.state = 'open' and s.history_id = $1 and s.epoch > $2`,
      [shard.historyId, shard.epoch],
    ),
  )
  const [ahead] = rows
  if (ahead !== undefined) await topology.replaceShard(name, { ...shard, epoch: ahead.epoch })
}

async function restartShard(supervisor: Supervisor, name: ShardName, shard: ShardDocument): Promise<void> {
  const { progress, topology } = supervisor
  if (shard.promotion !== undefined) {
    await finishPromotion(supervisor, name, progress)
    await writeConfiguration(supervisor, name, topology.shard(name))
    return
  }
  await requirePermanent(supervisor, nodeOf(shard, shard.primary))
  await openAgain(supervisor, name, shard)
}

/** F2. Also a shard that was lost, or whose promotion did not begin, is open once its primary is back. */
async function openAgain(supervisor: Supervisor, name: ShardName, shard: ShardDocument): Promise<void> {
  const { topology, shardServers } = supervisor
  if (!(await passesBarrier(supervisor, name, shard))) return
  await writeConfiguration(supervisor, name, shard)
  await shardServers.admit(nodeOf(shard, shard.primary))
  if (shard.state === 'open') return
  await topology.replaceShard(name, { ...shard, state: 'open' })
}

/** What the configuration gained since: migrations, tables, domains, tenants, another bound on clocks. */
async function writeConfiguration(supervisor: Supervisor, name: ShardName, shard: ShardDocument): Promise<void> {
  const { config, shardServers } = supervisor
  await withConnection(shardServers.adminTarget(nodeOf(shard, shard.primary)), async (admin) => {
    await writeClockOffset(admin, config)
    await installDomains(admin, config, name)
    await writePlacements(admin, placementsOf(config))
  })
}

/** HZ-C3: an unlogged clock would start again from nothing after a crash. */
async function requirePermanent({ shardServers }: Supervisor, primary: NodeDocument): Promise<void> {
  const { rows } = await withConnection(shardServers.adminTarget(primary), (admin) =>
    admin.query<{ relation: string }>('select holdfast.impermanent_relations() as relation'),
  )
  if (rows.length === 0) return
  throw new HoldfastError(
    'check_failed',
    `relations of ${primary.id} would not survive a crash: ${rows.map((row) => row.relation).join(', ')}`,
    {
      hint: 'alter table ... set logged',
    },
  )
}
