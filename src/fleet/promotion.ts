import { present } from '../base/assert.ts'
import { HoldfastError } from '../base/errors.ts'
import type { Progress } from '../base/progress.ts'
import type { ShardName } from '../directory/topology.ts'
import { administer } from './administer.ts'
import { promote } from '../postgres/server/follower.ts'
import type { FollowerAdmission } from './follower-admission.ts'
import type { OpeningParts } from './opening.ts'
import { openShard } from './opening.ts'
import type { FillingParts } from './retirement.ts'
import { buildUntilAcknowledged, canAcknowledge, retire } from './retirement.ts'
import { nodeOf } from './shard-servers.ts'
import type { NodeDocument, ShardDocument } from './topology-store.ts'
import { requireRelease } from './upgrade.ts'

/**
 * The part of a promotion that only goes forward. It begins once the topology names the new primary with its history, before
 * the follower is promoted. A supervisor that is killed behind that, or a step that fails, leaves a closed shard and a
 * document that says what is left to do: going back to the old primary would leave its followers on a timeline that it does
 * not have. Each step may have been done before.
 *
 * The shard opens as soon as somebody follows whose acknowledgement counts. What did not come along is built anew behind
 * that, and before it only where nobody is left to acknowledge.
 */
export interface PromotionParts extends FillingParts, OpeningParts {
  readonly followerAdmission: FollowerAdmission
}

const promoteWithinSeconds = 30
const answerWithinMs = 30_000

/** What is left of a promotion, out of turn. The shard is open when it resolves; it rejects soon where the fleet stops. */
export type RestOfPromotion = () => Promise<void>

/**
 * Finishes the promotion that the document of the shard has begun, whatever of it is done, and lets traffic in; in the caller's turn.
 * Where a follower has to be built first, that is left for what comes back: it takes as long as there is data, and others wait.
 */
export async function finishPromotion(
  parts: PromotionParts,
  name: ShardName,
  progress: Progress,
): Promise<RestOfPromotion> {
  const { topology, servers, shardServers, rebuilding, onStep } = parts
  const begun = topology.shard(name)
  const target = nodeOf(begun, begun.primary)
  const where = { shard: name }
  await onStep('promotion stop', where)
  // V5: none of them runs behind this point.
  for (const { node } of begun.retired ?? []) await servers.stop(node.id, 'immediate')
  progress({ step: 'promote', detail: `${target.id} in ${target.region}` })
  await onStep('promotion promote', where)
  await shardServers.ensurePrimary(begun)
  await openHistory(parts, name, begun, target)
  await onStep('promotion follow', where)
  const document = await followTarget(parts, name, begun, progress)
  await onStep('promotion slots', where)
  await shardServers.tidySlots(name, document, target)
  if (!canAcknowledge(shardServers, name, document)) return () => fillAndOpen(parts, name, document)
  await openShard(parts, name, document)
  rebuilding.begin(name)
  return () => Promise.resolve()
}

async function fillAndOpen(parts: PromotionParts, name: ShardName, document: ShardDocument): Promise<void> {
  const { topology, rebuilding } = parts
  const filled = await buildUntilAcknowledged(parts, name, document)
  await parts.exclusively(async () => {
    const now = topology.shard(name)
    if (now === filled) return openShard(parts, name, now)
    // Who came meanwhile has opened it, or is about to.
    if (now.promotion !== undefined) throw new HoldfastError('node_unavailable', `${name} was changed meanwhile`)
  })
  rebuilding.begin(name)
}

/** V4: the new history, at the next epoch, before anything else can happen on the promoted node. */
async function openHistory(
  { servers, onStep, release }: PromotionParts,
  name: ShardName,
  shard: ShardDocument,
  target: NodeDocument,
): Promise<void> {
  const { forkLsn } = present(shard.promotion, 'a promotion is under way')
  const dataDir = servers.dataDirOf(target.folder)
  await administer(servers.adminTarget(target), async (admin) => {
    await requireRelease(admin, name, release)
    await promote(admin, { dataDir, user: servers.user }, promoteWithinSeconds)
    await onStep('promotion history', { shard: name })
    // Nobody follows it yet. The barrier that opens the shard covers this write.
    await admin.query('set synchronous_commit = local')
    await admin.query(
      'call holdfast.open_history($1, $2, $3, $4, $5)',
      [shard.historyId, shard.epoch, forkLsn, 'promotion', []],
      answerWithinMs,
    )
  })
}

/** Lets the other followers follow the new primary. One that cannot be made to is built anew like the old primary. */
async function followTarget(
  { topology, servers, shardServers, followerAdmission }: PromotionParts,
  name: ShardName,
  begun: ShardDocument,
  progress: Progress,
): Promise<ShardDocument> {
  const target = nodeOf(begun, begun.primary)
  const others = begun.nodes.filter(({ id }) => id !== target.id)
  const attached = await Promise.allSettled(
    others.map(async (node) => {
      progress({ step: 'follow', detail: node.id })
      if (!servers.isRunning(node.id)) await shardServers.startFollower(name, begun, node)
      await shardServers.attach(target, node)
      // Also where a start left it to this promotion. It may not have replayed the release.
      if (shardServers.isLockedOut(node.id)) followerAdmission.begin(name, node)
    }),
  )
  const lost = others.filter((_, index) => attached[index]?.status === 'rejected')
  if (lost.length === 0) return begun
  for (const node of lost) await servers.stop(node.id, 'immediate')
  const nodes = begun.nodes.filter((node) => !lost.includes(node))
  const document: ShardDocument = { ...begun, nodes, ...retire(begun, lost) }
  await topology.replaceShard(name, document)
  return document
}
