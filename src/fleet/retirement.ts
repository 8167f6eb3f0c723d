import { HoldfastError } from '../base/errors.ts'
import type { OnStep } from '../base/step.ts'
import type { ShardName } from '../directory/topology.ts'
import type { Built, Rebuilding } from './rebuilding.ts'
import type { FleetServers } from './servers.ts'
import type { ShardServers } from './shard-servers.ts'
import { nodeOf } from './shard-servers.ts'
import type { NodeDocument, ShardDocument, TopologyStore } from './topology-store.ts'

/**
 * Takes followers that will not follow again out of their shard (V9); each place is built anew.
 *
 * One that is gone may be the only one that acknowledged a commit, so as long as it is in the topology no promotion is safe
 * without it. Forgetting it while the primary takes traffic has to leave nothing on it alone: commits stop waiting for it, a
 * barrier that only the others can acknowledge shows that one of them has everything up to then, and the topology forgets it
 * last. Broken off anywhere before that, everything is as it was.
 *
 * Where nobody else counts there is nobody to pass that barrier. Then the topology forgets it first: a shard without a follower
 * that counts is never promoted, and its commits wait. What takes the place is built from the primary, which has them all.
 */
export interface RetirementParts {
  readonly topology: TopologyStore
  readonly servers: FleetServers
  readonly shardServers: ShardServers
  readonly rebuilding: Rebuilding
  readonly onStep: OnStep
}

const barrierWithinMs = 30_000

/** The document's nodes that are to be built anew, with the numbers of those that take their places. */
export function retire(
  shard: ShardDocument,
  nodes: readonly NodeDocument[],
): Pick<ShardDocument, 'retired' | 'nextNode'> {
  const retired = nodes.map((node, index) => ({ node, successor: shard.nextNode + index }))
  return { retired: [...(shard.retired ?? []), ...retired], nextNode: shard.nextNode + nodes.length }
}

/**
 * Of a shard whose primary runs, and that nobody else changes meanwhile. Throws `node_unavailable` when none of the others
 * passes the barrier; then the shard has its followers as before.
 */
export async function retireFollowers(
  parts: RetirementParts,
  name: ShardName,
  lost: readonly NodeDocument[],
): Promise<void> {
  const { topology, servers, shardServers, onStep } = parts
  const before = topology.shard(name)
  const nodes = before.nodes.filter((node) => !lost.includes(node))
  const after: ShardDocument = { ...before, nodes, ...retire(before, lost) }
  // From here on it acknowledges nothing.
  for (const { id } of lost) await servers.stop(id, 'immediate')
  const counted = lost.some((node) => shardServers.counts(name, before, node))
  if (counted && canAcknowledge(shardServers, name, after)) await passWithout(parts, name, before, after)
  await onStep('retirement tell', { shard: name })
  await topology.replaceShard(name, after)
  await shardServers.applySynchronousNames(name, after)
  await shardServers.tidySlots(name, after, nodeOf(after, after.primary))
}

async function passWithout(
  { shardServers, onStep }: RetirementParts,
  name: ShardName,
  before: ShardDocument,
  after: ShardDocument,
): Promise<void> {
  await onStep('retirement names', { shard: name })
  await shardServers.applySynchronousNames(name, after)
  try {
    await onStep('retirement barrier', { shard: name })
    await shardServers.barrier(nodeOf(after, after.primary), barrierWithinMs)
  } catch (error) {
    await shardServers.applySynchronousNames(name, before)
    throw error
  }
}

export interface FillingParts extends RetirementParts {
  /** Runs one change of servers or topology at a time. */
  exclusively<T>(change: () => Promise<T>): Promise<T>
}

/**
 * Builds what is retired, from the primary, until somebody is there whose acknowledgement counts. Out of turn, as a build takes as long as
 * there is data; in turn for the places. Gives the document of the topology; undefined where somebody else changed the shard meanwhile.
 */
export async function buildUntilAcknowledged(
  parts: FillingParts,
  name: ShardName,
  shard: ShardDocument,
): Promise<ShardDocument | undefined> {
  const { shardServers, rebuilding } = parts
  let document: ShardDocument | undefined = shard
  while (document !== undefined && !canAcknowledge(shardServers, name, document)) {
    const from: ShardDocument = document
    const built = await buildOne(parts, name, from)
    document = await parts.exclusively(async () => {
      const placed = await rebuilding.place(name, built, (now) => now === from)
      if (placed !== undefined) await shardServers.applySynchronousNames(name, placed)
      return placed
    })
  }
  return document
}

async function buildOne(
  { shardServers, rebuilding, onStep }: RetirementParts,
  name: ShardName,
  document: ShardDocument,
): Promise<Built> {
  const next = document.retired?.find(({ node }) => shardServers.counts(name, document, node))
  if (next === undefined) {
    throw new HoldfastError('node_unavailable', `${name} has no follower that could acknowledge its commits`, {
      hint: 'restore it from the archive',
    })
  }
  await onStep('promotion build', { shard: name })
  return rebuilding.build(name, document, next)
}

/**
 * Fills a place where nobody is in the shard whose acknowledgement counts, and such a one was retired: a build that was broken off
 * would leave every barrier waiting for nobody. Of a shard whose primary runs, and as `buildUntilAcknowledged` does.
 */
export async function ensureAcknowledged(
  parts: FillingParts,
  name: ShardName,
  shard: ShardDocument,
): Promise<ShardDocument | undefined> {
  // What comes out of a promotion fills its own places; what a cutover adopted never had any.
  const canFill = shard.retired?.some(({ node }) => parts.shardServers.counts(name, shard, node)) ?? false
  if (shard.promotion !== undefined || !canFill) return shard
  return buildUntilAcknowledged(parts, name, shard)
}

/** Whether anybody is in the shard whose acknowledgement its commits could wait for. */
export function canAcknowledge(shardServers: ShardServers, name: ShardName, shard: ShardDocument): boolean {
  if (shard.durability === 'local') return true
  return shard.nodes.some((node) => node.id !== shard.primary && shardServers.counts(name, shard, node))
}
