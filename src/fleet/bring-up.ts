import { rm } from 'node:fs/promises'
import { present } from '../base/assert.ts'
import { HoldfastError } from '../base/errors.ts'
import type { Epoch, Jurisdiction, RegionName, ShardName } from '../directory/topology.ts'
import { nameRelease } from '../postgres/release.ts'
import { takeUpRegions } from './added-regions.ts'
import { foundShard, requireUnusedArchives } from './founding.ts'
import { makeHome } from './home.ts'
import { LeftOut } from './left-out.ts'
import { removeLeftovers } from './leftovers.ts'
import { folderOf, nodeId } from './node-names.ts'
import { letIn, passesBarrier, takeUpEpoch } from './opening.ts'
import { finishPromotion } from './promotion.ts'
import { requireSameFleet } from './same-fleet.ts'
import { requireSamePlacements } from './same-placements.ts'
import type { Supervisor } from './supervisor.ts'
import type { NodeDocument, ShardDocument, TopologyDocument } from './topology-store.ts'
import { requireUpgradable, settled, upgradeShards } from './upgrade.ts'

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
    survive: shard.survive,
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
 * No shard is changed before every shard may be, and none takes traffic before all are at this release (U2, U3). Gives what it
 * went on without (V10). Throws `config_invalid` when the configuration is not that of this fleet, and what an upgrade throws.
 */
export async function restartFleet(supervisor: Supervisor, document: TopologyDocument): Promise<LeftOut> {
  for (const name of supervisor.config.shards.keys()) {
    if (document.shards[name] === undefined) {
      throw new HoldfastError('config_invalid', `shard ${name} was not part of this fleet when it was founded`, {
        hint: 'start it on a new data directory',
      })
    }
  }
  requireSameFleet(supervisor.config, document)
  await removeLeftovers(supervisor, document)
  const shards = Object.keys(document.shards) as ShardName[]
  const of = (name: ShardName) => supervisor.topology.shard(name)
  const leftOut = new LeftOut(supervisor)
  const up = () => shards.filter((name) => !leftOut.has(name))
  supervisor.takingUp.expect(shards)
  for (const name of shards) requireSameDurability(supervisor, name, of(name))
  await settled(shards.map((name) => startServers(supervisor, name, leftOut)))
  leftOut.requireSomebody()
  const installed = await installedBefore(supervisor, shards, leftOut)
  if (installed !== undefined) leftOut.requireNothing(installed)
  await requireSamePlacements(supervisor)
  // An upgrade's commit waits for followers as well.
  const { lostFollowers } = supervisor
  await settled(up().map((name) => leftOut.unlessFails(name, () => lostFollowers.replace(name))))
  if (installed !== undefined) {
    leftOut.requireNothing(installed)
    await upgrade(supervisor, up())
  }
  await settled(up().map((name) => followEpoch(supervisor, name, leftOut)))
  await takeUpRegions(supervisor)
  await settled(up().map((name) => restartShard(supervisor, name, leftOut)))
  await settled(shards.map((name) => admitFollowers(supervisor, name, leftOut)))
  await leftOut.tell()
  for (const name of shards) supervisor.rebuilding.begin(name)
  return leftOut
}

/** The shard's own rows say what its commits promise; a setting that says less would break it without a word. */
function requireSameDurability({ config }: Supervisor, name: ShardName, shard: ShardDocument): void {
  if (config.shards.get(name)?.durability === shard.durability) return
  throw new HoldfastError('config_invalid', `shard ${name} was founded with durability ${shard.durability}`, {
    hint: 'leave the shard and its durability in the configuration as they were, or start on a new data directory',
  })
}

/** V9, V10: neither a follower that is lost nor a primary keeps others from starting. */
async function startServers(supervisor: Supervisor, name: ShardName, leftOut: LeftOut): Promise<void> {
  const { shardServers, servers, progress, topology } = supervisor
  const shard = topology.shard(name)
  for (const node of shard.nodes) await shardServers.place(node.id, node.region, node.folder)
  progress({ step: 'start', detail: name })
  const isPromoting = shard.promotion !== undefined
  await leftOut.unlessFails(name, () =>
    isPromoting ? shardServers.ensurePrimary(shard) : shardServers.startPrimary(name, shard),
  )
  // It is started anew, and not left with half of what belongs to its start.
  if (leftOut.has(name)) await servers.stop(shard.primary, 'immediate')
  // Those of a promotion follow, and are waited for, once their primary is promoted.
  if (!isPromoting || leftOut.has(name)) await startFollowers(supervisor, name, leftOut)
}

/** Those that do not run. */
async function startFollowers(supervisor: Supervisor, name: ShardName, leftOut: LeftOut): Promise<void> {
  const { shardServers, lostFollowers, servers, topology } = supervisor
  const shard = topology.shard(name)
  const followers = shard.nodes.filter(({ id }) => id !== shard.primary && !servers.isRunning(id))
  await Promise.all(
    followers.map((node) =>
      leftOut.unlessFollowerFails(name, node, () =>
        lostFollowers.start(node, () => shardServers.startFollower(name, shard, node)),
      ),
    ),
  )
}

/**
 * The release that a shard is to be upgraded from; undefined where none is. One whose primary cannot say so is asked of by its followers:
 * where the others have this release, it has it before it opens, and where there are no others nobody could promote it with this one.
 */
async function installedBefore(
  supervisor: Supervisor,
  shards: readonly ShardName[],
  leftOut: LeftOut,
): Promise<string | undefined> {
  const ask = async (name: ShardName) => {
    const askPrimary = () => requireUpgradable(supervisor, name, supervisor.topology.shard(name))
    const installed = leftOut.has(name) ? undefined : await leftOut.unlessFails(name, askPrimary)
    const isUp = !leftOut.has(name)
    return { isUp, installed: isUp ? installed : await leftOut.askFollowers(name) }
  }
  const found = await settled(shards.map(ask))
  const counted = found.some(({ isUp }) => isUp) ? found.filter(({ isUp }) => isUp) : found
  return counted.find(({ installed }) => installed !== undefined)?.installed
}

/** On all of them or on none. What is under way in a promotion is at this release already (U3). */
async function upgrade(supervisor: Supervisor, shards: readonly ShardName[]): Promise<void> {
  const { progress, release, topology } = supervisor
  const standing = shards
    .map((name) => [name, topology.shard(name)] as const)
    .filter(([, { promotion }]) => promotion === undefined)
  for (const name of await upgradeShards(supervisor, standing)) {
    progress({ step: 'upgrade', detail: `${name} to release ${nameRelease(release)}` })
  }
}

/** That of a promotion under way is in the topology already. */
async function followEpoch(supervisor: Supervisor, name: ShardName, leftOut: LeftOut): Promise<void> {
  if (supervisor.topology.shard(name).promotion !== undefined) return
  await leftOut.unlessFails(name, () => takeUpEpoch(supervisor, name))
  if (leftOut.has(name)) await leftOut.askFollowers(name)
}

/** U2. Those of a shard that is down may have another release for as long as it is: they are not waited for. */
async function admitFollowers(supervisor: Supervisor, name: ShardName, leftOut: LeftOut): Promise<void> {
  const { followerAdmission, servers, topology } = supervisor
  const { nodes, primary } = topology.shard(name)
  const followers = nodes.filter(({ id }) => id !== primary && servers.isRunning(id))
  const admit = (node: NodeDocument) =>
    leftOut.has(name) ? followerAdmission.admit(name, node) : followerAdmission.atStart(name, node)
  await settled(followers.map((node) => leftOut.unlessFollowerFails(name, node, () => admit(node))))
}

async function restartShard(supervisor: Supervisor, name: ShardName, leftOut: LeftOut): Promise<void> {
  const { progress, topology } = supervisor
  const shard = topology.shard(name)
  if (shard.promotion !== undefined) {
    await leftOut.unlessFails(name, async () => {
      const open = await finishPromotion(supervisor, name, progress)
      await open()
    })
    if (leftOut.has(name)) await startFollowers(supervisor, name, leftOut)
    return
  }
  const isPassed = await leftOut.unlessFails(name, () => passesBarrier(supervisor, name, shard))
  // Of a cutover that was broken off behind its fence. What failed is told as left out.
  if (isPassed === false && shard.state === 'open') await topology.replaceShard(name, { ...shard, state: 'fenced' })
  if (isPassed !== true) return
  await leftOut.unlessFails(name, () => openAgain(supervisor, name, shard))
  // It may have let gateways in: it is started anew, and keeps them out.
  if (leftOut.has(name)) await supervisor.servers.stop(shard.primary, 'immediate')
}

/** F2. Also a shard that was lost, or whose promotion did not begin, is open once its primary is back. */
async function openAgain(supervisor: Supervisor, name: ShardName, shard: ShardDocument): Promise<void> {
  await letIn(supervisor, name, shard)
  if (shard.state === 'open') return
  await supervisor.topology.replaceShard(name, { ...shard, state: 'open' })
}
