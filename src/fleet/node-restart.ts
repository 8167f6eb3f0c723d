import { HoldfastError, isHoldfastError } from '../base/errors.ts'
import type { NodeId, ShardName } from '../directory/topology.ts'
import { letIn, mayOpen, passesBarrier, takeUpEpoch } from './opening.ts'
import { ensureAcknowledged } from './retirement.ts'
import { nodeOf } from './shard-servers.ts'
import type { Supervisor } from './supervisor.ts'
import type { ShardDocument } from './topology-store.ts'

/** One node that is down comes back: because somebody asked for it, or because nobody asked for its end. */

/** Between attempts to bring back a server that does not run; twice as long behind each that fails. */
const recoverPauseMs = 1_000
/** Also behind as many attempts as make a follower lost. What kept it from starting may be over all the same. */
const recoverPauseMsMax = 10_000

/**
 * Starts a node's server again; a primary takes traffic once a barrier has passed (F2). Where it is not due any more when its
 * turn has come, nothing is done.
 */
export async function restartNode(
  supervisor: Supervisor,
  id: NodeId,
  isDue: () => Promise<boolean> = () => Promise.resolve(true),
): Promise<void> {
  const open = await supervisor.exclusively(async () => ((await isDue()) ? startAgain(supervisor, id) : undefined))
  await open?.()
}

/**
 * Out of turn: the followers that the barrier waits for may have to be built, or started, meanwhile. A document that was replaced
 * meanwhile tells of a change, perhaps of another start, that the barrier says nothing of (F2): who made it opens the shard.
 */
async function openBehindBarrier(supervisor: Supervisor, name: ShardName, fenced: ShardDocument): Promise<void> {
  const { topology, lostFollowers } = supervisor
  const due = await supervisor.exclusively(async () => {
    if (topology.shard(name) !== fenced) return undefined
    // Of an upgrade that a start was ended behind; the next one may not have reached this shard.
    await takeUpEpoch(supervisor, name)
    if (!(await mayOpen(supervisor, topology.shard(name)))) return undefined
    await lostFollowers.retireAwaited(name)
    return topology.shard(name)
  })
  if (due === undefined) return
  // What was rebuilt in the background ended with the primary that it was built from (V9).
  const awaited = await ensureAcknowledged(supervisor, name, due)
  if (awaited === undefined || !(await passesBarrier(supervisor, name, awaited))) return
  await supervisor.exclusively(async () => {
    if (topology.shard(name) !== awaited) return
    await letIn(supervisor, name, awaited)
    await topology.replaceShard(name, { ...awaited, state: 'open' })
  })
  supervisor.rebuilding.begin(name)
}

/** Gives what opens the shard, out of turn, when it was its primary that was started. */
async function startAgain(supervisor: Supervisor, id: NodeId): Promise<(() => Promise<void>) | undefined> {
  const { topology, shardServers, followerAdmission } = supervisor
  const found = shardOf(supervisor, id)
  if (found === undefined) throw new HoldfastError('unknown_node', `no node ${id} is in the topology`)
  const [name, shard] = found
  if (id !== shard.primary) {
    await shardServers.startFollower(name, shard, nodeOf(shard, id))
    await followerAdmission.admit(name, nodeOf(shard, id))
    return undefined
  }
  if (shard.promotion !== undefined) {
    return supervisor.promotions.finish(name, supervisor.progress)
  }
  // What it shows after its crash may be on no follower (HZ-S2).
  const fenced: ShardDocument = { ...shard, state: shard.state === 'lost' ? 'lost' : 'fenced' }
  await topology.replaceShard(name, fenced)
  await shardServers.startPrimary(name, shard)
  return () => openBehindBarrier(supervisor, name, fenced)
}

/**
 * Brings a node back until it runs, a primary until its shard is open; or the node is no longer wanted, or the fleet stops. One
 * that is lost may be the only one that the barrier of its primary can wait for: it is tried until its shard can spare it (V9).
 */
export async function bringBack(supervisor: Supervisor, id: string): Promise<void> {
  const { servers, clock, progress, closing, lostFollowers } = supervisor
  for (let pauseMs = recoverPauseMs; ; pauseMs = Math.min(2 * pauseMs, recoverPauseMsMax)) {
    const found = shardOf(supervisor, id)
    if (closing.aborted || found === undefined) return
    const [name, shard] = found
    const isBack = servers.isRunning(id)
    // A primary that runs and could not pass its barrier yet is not back.
    if (isBack && (id !== shard.primary || shard.state === 'open')) return
    if (id === shard.primary && shard.promotion !== undefined) return supervisor.promotions.begin(name)
    let isLost = false
    try {
      if (isBack) {
        await openBehindBarrier(supervisor, name, shard)
      } else {
        progress({ step: 'restart', detail: `${id}, which does not run` })
        const restart = () => restartNode(supervisor, id as NodeId)
        if (id === shard.primary) await restart()
        else isLost = !(await lostFollowers.start(nodeOf(shard, id as NodeId), restart))
      }
      if (!isLost) return
    } catch (error) {
      if (isHoldfastError(error, 'release_differs')) {
        progress({ step: 'alarm', detail: `${name} stays closed: ${error.message}; ${error.hint}` })
        return
      }
      const why = error instanceof Error ? error.message : String(error)
      progress({ step: 'restart failed', detail: `${id}: ${why}` })
    }
    await clock.sleep(isLost ? recoverPauseMsMax : pauseMs, closing).catch(() => undefined)
  }
}

function shardOf({ topology }: Supervisor, id: string): [ShardName, ShardDocument] | undefined {
  const shards = Object.entries(topology.document.shards) as [ShardName, ShardDocument][]
  return shards.find(([, { nodes }]) => nodes.some((node) => node.id === id))
}
