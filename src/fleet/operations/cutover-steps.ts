import { basename } from 'node:path'
import type { Epoch, ShardName } from '../../directory/topology.ts'
import type { Connection } from '../../postgres/connection.ts'
import type { Adoption, CutoverFleet } from '../../recovery/cutover-fleet.ts'
import { administer, longWithinMs } from '../administer.ts'
import { folderOf, nodeId } from '../node-names.ts'
import { letIn, openShard } from '../opening.ts'
import { installDomains } from '../founding.ts'
import { nodeOf } from '../shard-servers.ts'
import type { Supervisor } from '../supervisor.ts'
import type { NodeDocument, ShardDocument } from '../topology-store.ts'
import { bringToRelease } from '../upgrade.ts'
import { requireRolledOut } from './rolled-out.ts'

/** What a cutover does to the servers and the topology of an embedded fleet. Each step may be run again after a crash. */
export function cutoverFleet(supervisor: Supervisor): CutoverFleet {
  const { topology, servers, shardServers } = supervisor
  return {
    standing: (shard) => {
      const document = topology.shard(shard)
      const primary = nodeOf(document, document.primary)
      return {
        shard,
        epoch: document.epoch,
        historyId: document.historyId,
        isAlive: servers.isRunning(primary.id),
        isPromoting: document.promotion !== undefined,
        followersRunning: document.nodes.flatMap(({ id }) => (id !== primary.id && servers.isRunning(id) ? [id] : [])),
        primary: shardServers.adminTarget(primary),
      }
    },
    reopened: async (shard, epoch) => {
      const document = topology.shard(shard)
      // A fleet that was started meanwhile has let nobody in yet.
      if (servers.isRunning(document.primary)) await letIn(supervisor, shard, document)
      await topology.replaceShard(shard, { ...document, epoch, state: 'open' })
    },
    requireRolledOut: (places) => requireRolledOut(supervisor.config, places),
    adopt: (adoption) => adopt(supervisor, adoption),
    open: (shard, epoch) => open(supervisor, shard, epoch),
  }
}

/**
 * The environment's server becomes the shard's primary: alone, closed, under the fleet's settings and a node's name. The nodes of the
 * history that was left are stopped first and removed once nobody is told of them any more.
 */
async function adopt(supervisor: Supervisor, { shard: name, epoch, historyId, server }: Adoption): Promise<void> {
  const { topology, servers, shardServers } = supervisor
  const old = topology.shard(name)
  for (const node of old.nodes) await servers.stop(node.id, 'fast')
  await servers.stop(server.id, 'fast')
  const { region } = nodeOf(old, old.primary)
  const primary = await shardServers.place(nodeId(name, old.nextNode), region, basename(server.dataDir))
  const document: ShardDocument = {
    ...old,
    epoch,
    historyId,
    state: 'fenced',
    primary: primary.id,
    nodes: [primary],
    nextNode: old.nextNode + 1,
    promotion: undefined,
    retired: undefined,
  }
  await shardServers.startPrimaryWithoutWaiting(document)
  // Restored from before an upgrade, it has the release of then; from before a migration, the tables of then.
  const install = async (admin: Connection) => {
    await bringToRelease(admin, name, supervisor.release)
    await installDomains(admin, supervisor.config, name)
  }
  await administer(shardServers.adminTarget(primary), install, longWithinMs)
  await topology.replaceShard(name, document)
  // A supervisor that ends here removes them at its next start (F5).
  await supervisor.onStep('cutover remove', { shard: name })
  for (const node of old.nodes) await servers.removeDirectory(node.folder)
  for (const one of old.retired ?? []) await supervisor.rebuilding.forget(name, one)
}

/** Builds the followers that the configuration names, then lets traffic in behind a barrier. */
async function open(supervisor: Supervisor, name: ShardName, epoch: Epoch): Promise<void> {
  const { topology, shardServers } = supervisor
  const standing = topology.shard(name)
  // It was opened, and a promotion may have taken it further since.
  if (standing.epoch > epoch || (standing.state === 'open' && standing.epoch === epoch)) return
  const primary = nodeOf(standing, standing.primary)
  const regions = shardServers.emptyPlaces(name, standing)
  await shardServers.ensurePrimary(standing)
  const followers: NodeDocument[] = []
  for (const [index, region] of regions.entries()) {
    const number = standing.nextNode + index
    followers.push(await shardServers.place(nodeId(name, number), region, folderOf(name, number)))
  }
  await Promise.all(followers.map((follower) => shardServers.buildFollower(primary, follower)))
  await topology.replaceShard(name, {
    ...standing,
    nodes: [...standing.nodes, ...followers],
    nextNode: standing.nextNode + followers.length,
  })
  await openShard(supervisor, name, topology.shard(name))
}
