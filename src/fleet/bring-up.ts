import { rm } from 'node:fs/promises'
import { present } from '../base/assert.ts'
import { HoldfastError } from '../base/errors.ts'
import type { Epoch, Jurisdiction, RegionName, ShardName } from '../directory/topology.ts'
import { withConnection } from '../postgres/postgres.ts'
import { foundShard, installDomains, requireUnusedArchives, writeClockOffset, writePlacements } from './founding.ts'
import { makeHome } from './home.ts'
import { folderOf, nodeId } from './node-names.ts'
import { passesBarrier } from './opening.ts'
import { finishPromotion } from './promotion.ts'
import { nodeOf } from './shard-servers.ts'
import type { Supervisor } from './supervisor.ts'
import type { NodeDocument, ShardDocument, TopologyDocument } from './topology-store.ts'

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
  const { historyId } = await foundShard(servers, config, keys, shard, {
    id: first.id,
    folder: first.folder,
    settings: shardServers.settingsWithoutWaiting(),
  })
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

/** Throws `config_invalid` when the configuration has a shard that the fleet was founded without. */
export async function restartFleet(supervisor: Supervisor, document: TopologyDocument): Promise<void> {
  for (const name of supervisor.config.shards.keys()) {
    if (document.shards[name] === undefined) {
      throw new HoldfastError('config_invalid', `shard ${name} was not part of this fleet when it was founded`, {
        hint: 'start it on a new data directory',
      })
    }
  }
  const shards = Object.entries(document.shards) as [ShardName, ShardDocument][]
  await Promise.all(shards.map(([name, shard]) => restartShard(supervisor, name, shard)))
}

async function restartShard(supervisor: Supervisor, name: ShardName, shard: ShardDocument): Promise<void> {
  const { config, shardServers, progress, rebuilding, topology } = supervisor
  // The shard's own rows say what its commits promise; a setting that says less would break it without a word.
  if (config.shards.get(name)?.durability !== shard.durability) {
    throw new HoldfastError('config_invalid', `shard ${name} was founded with durability ${shard.durability}`, {
      hint: 'leave the shard and its durability in the configuration as they were, or start on a new data directory',
    })
  }
  for (const node of shard.nodes) await shardServers.place(node.id, node.region, node.folder)
  progress({ step: 'start', detail: name })
  if (shard.promotion !== undefined) {
    await finishPromotion(supervisor, name, progress)
    await writeConfiguration(supervisor, name, topology.shard(name))
    return
  }
  await shardServers.startPrimary(name, shard)
  const followers = shard.nodes.filter(({ id }) => id !== shard.primary)
  await Promise.all(followers.map((node) => shardServers.startFollower(name, shard, node)))
  await requirePermanent(supervisor, nodeOf(shard, shard.primary))
  await openAgain(supervisor, name, shard)
  rebuilding.begin(name)
}

/** F2. Also a shard that was lost, or whose promotion did not begin, is open once its primary is back. */
async function openAgain(supervisor: Supervisor, name: ShardName, shard: ShardDocument): Promise<void> {
  const { shardServers, topology } = supervisor
  if (!(await passesBarrier(shardServers, shard))) return
  await writeConfiguration(supervisor, name, shard)
  if (shard.state === 'open') return
  await topology.replaceShard(name, { ...shard, state: 'open' })
}

/** What the configuration gained since: migrations, tables, domains, tenants, another bound on clocks. */
async function writeConfiguration(supervisor: Supervisor, name: ShardName, shard: ShardDocument): Promise<void> {
  const { config, shardServers } = supervisor
  await withConnection(shardServers.adminTarget(nodeOf(shard, shard.primary)), async (admin) => {
    await writeClockOffset(admin, config)
    await installDomains(admin, config, name)
    await writePlacements(admin, config)
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
