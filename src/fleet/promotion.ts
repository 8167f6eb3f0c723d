import { present } from '../base/assert.ts'
import type { Progress } from '../base/progress.ts'
import type { ShardName } from '../directory/topology.ts'
import { withConnection } from '../postgres/postgres.ts'
import { promote } from '../postgres/server/follower.ts'
import { folderOf, nodeId } from './node-names.ts'
import type { FleetServers } from './servers.ts'
import type { ShardServers } from './shard-servers.ts'
import { nodeOf } from './shard-servers.ts'
import type { NodeDocument, ShardDocument, TopologyStore } from './topology-store.ts'

/**
 * The part of a promotion that only goes forward. It begins once the topology names the new primary with its history, before
 * the follower is promoted. A supervisor that is killed behind that, or a step that fails, leaves a closed shard and a
 * document that says what is left to do: going back to the old primary would leave its followers on a timeline that it does
 * not have. Each step may have been done before.
 */
export interface PromotionParts {
  readonly topology: TopologyStore
  readonly servers: FleetServers
  readonly shardServers: ShardServers
}

const promoteWithinSeconds = 30
const answerWithinMs = 30_000
const barrierWithinMs = 30_000

/** Finishes the promotion that the document of the shard has begun, whatever of it is done, and lets traffic in. */
export async function finishPromotion(parts: PromotionParts, name: ShardName, progress: Progress): Promise<void> {
  const { topology, servers, shardServers } = parts
  const begun = topology.shard(name)
  const target = nodeOf(begun, begun.primary)
  progress({ step: 'promote', detail: `${target.id} in ${target.region}` })
  await shardServers.ensurePrimary(begun)
  await openHistory(parts, begun, target)
  for (const node of begun.nodes) {
    if (node.id === target.id) continue
    progress({ step: 'follow', detail: node.id })
    if (!servers.isRunning(node.id)) await shardServers.startFollower(begun, node)
    await shardServers.attach(target, node)
  }
  let document = begun
  for (const gone of retiredOf(begun)) document = await rebuildRetired(parts, name, document, gone, progress)
  await openShard(parts, name, document)
}

/** V4: the new history, at the next epoch, before anything else can happen on the promoted node. */
async function openHistory({ servers }: PromotionParts, shard: ShardDocument, target: NodeDocument): Promise<void> {
  const { forkLsn } = present(shard.promotion, 'a promotion is under way')
  const dataDir = servers.dataDirOf(target.folder)
  await withConnection(servers.adminTarget(target), async (admin) => {
    await promote(admin, { dataDir, user: servers.user }, promoteWithinSeconds)
    // Nobody follows it yet. The barrier that opens the shard covers this write.
    await admin.query('set synchronous_commit = local')
    await admin.query(
      'call holdfast.open_history($1, $2, $3, $4, $5)',
      [shard.historyId, shard.epoch, forkLsn, 'promotion', []],
      answerWithinMs,
    )
  })
}

/** V5: a node that did not come along is gone for good; a new follower takes its place. */
async function rebuildRetired(
  { topology, servers, shardServers }: PromotionParts,
  name: ShardName,
  document: ShardDocument,
  gone: NodeDocument,
  progress: Progress,
): Promise<ShardDocument> {
  const { nextNode } = document
  const promotion = present(document.promotion, 'a promotion is under way')
  const id = nodeId(name, nextNode)
  progress({ step: 'rebuild', detail: `${id} in ${gone.region}` })
  await servers.stop(gone.id, 'immediate')
  const node = await shardServers.place(id, gone.region, folderOf(name, nextNode))
  await shardServers.buildFollower(nodeOf(document, document.primary), node)
  const next: ShardDocument = {
    ...document,
    nodes: [...document.nodes, node],
    nextNode: nextNode + 1,
    promotion: { ...promotion, retired: promotion.retired.filter((one) => one.id !== gone.id) },
  }
  await topology.replaceShard(name, next)
  await servers.removeDirectory(gone.folder)
  return next
}

function retiredOf({ promotion }: ShardDocument): readonly NodeDocument[] {
  return present(promotion, 'a promotion is under way').retired
}

/** The shard takes traffic once its commits wait for followers again and a barrier has passed. */
export async function openShard(
  { topology, shardServers }: PromotionParts,
  name: ShardName,
  document: ShardDocument,
): Promise<void> {
  const primary = nodeOf(document, document.primary)
  await shardServers.reserveForArchive(name, primary)
  await shardServers.applySynchronousNames(name, document)
  await withConnection(shardServers.adminTarget(primary), (admin) =>
    admin.query('call holdfast.open_shard($1)', [document.epoch], answerWithinMs),
  )
  await shardServers.barrier(primary, barrierWithinMs)
  await topology.replaceShard(name, { ...document, state: 'open', promotion: undefined })
}
