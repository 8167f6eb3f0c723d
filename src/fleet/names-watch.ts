import type { NodeId, ShardName } from '../directory/topology.ts'
import { Connection } from '../postgres/connection.ts'
import { administer } from './administer.ts'
import { bringBack, restartNode } from './node-restart.ts'
import { nodeOf } from './shard-servers.ts'
import type { Supervisor } from './supervisor.ts'

/**
 * HZ-S5: watches whom the commits of every primary wait for. Whoever can set it, a tool or a person in a hurry, can empty or
 * change it. What decides refuses from then on; what waited for others meanwhile, or for nobody, is on no follower that a
 * promotion looks at.
 *
 * Putting the names back on a primary that serves would make it worse. A session takes them up when it is told, and whether
 * commits wait at all is told by the checkpointer, in its own time: until then a commit that saw names passes alone. So the
 * primary is started again as after a crash: with the names from its first moment, with nobody let in, and open once a barrier
 * shows that everything it has is on its followers (V7).
 */

const everyMs = 2_000
const connectWithinMs = 2_000
const answerWithinMs = 2_000

/** Kept from look to look: a new one costs the server a hundred times what a look does. */
type Watches = Map<ShardName, { readonly node: NodeId; readonly connection: Connection }>

/** Runs until the fleet stops. A primary that does not answer is the business of others. */
export async function watchNames(supervisor: Supervisor): Promise<void> {
  const { clock, closing, topology } = supervisor
  const watches: Watches = new Map()
  // Each at its own pace: one that is closed until its followers are back keeps nobody from the others.
  const watch = async (name: ShardName) => {
    while (!closing.aborted) {
      await watchNamesOf(supervisor, name, watches).catch(() => endWatch(watches, name))
      await clock.sleep(everyMs, closing).catch(() => undefined)
    }
    endWatch(watches, name)
  }
  await Promise.all((Object.keys(topology.document.shards) as ShardName[]).map(watch))
}

async function watchNamesOf(supervisor: Supervisor, name: ShardName, watches: Watches): Promise<void> {
  const node = watchedNode(supervisor, name)
  if (watches.get(name)?.node !== node?.id) endWatch(watches, name)
  if (node === undefined) return
  const { shardServers } = supervisor
  const connection =
    watches.get(name)?.connection ?? (await Connection.connect(shardServers.adminTarget(node), connectWithinMs))
  watches.set(name, { node: node.id, connection })
  if (await isChanged(supervisor, name, connection)) await restoreNames(supervisor, name)
}

function endWatch(watches: Watches, name: ShardName): void {
  watches.get(name)?.connection.release()
  watches.delete(name)
}

async function restoreNames(supervisor: Supervisor, name: ShardName): Promise<void> {
  const { topology, shardServers } = supervisor
  const { primary, durability } = topology.shard(name)
  if (durability === 'local') {
    // Its commits wait for nobody, whoever is named.
    await supervisor.exclusively(async () => {
      if (await forgetChange(supervisor, name)) await shardServers.applySynchronousNames(name, topology.shard(name))
    })
    return
  }
  try {
    await restartNode(supervisor, primary, () => forgetChange(supervisor, name))
  } catch {
    // Its followers are away, or it did not start. Nobody else would come for a shard that was closed here.
    await bringBack(supervisor, primary)
  }
}

/**
 * What somebody set stands before what the supervisor writes, until it is reset. False where nothing is changed any more:
 * a change of ours that was under way has ended.
 */
async function forgetChange(supervisor: Supervisor, name: ShardName): Promise<boolean> {
  const node = watchedNode(supervisor, name)
  if (node === undefined) return false
  return administer(supervisor.shardServers.adminTarget(node), async (admin) => {
    if (!(await isChanged(supervisor, name, admin))) return false
    const detail = `${name}: somebody changed whom its commits wait for; it is put back`
    supervisor.progress({ step: 'alarm', detail })
    for (const setting of ['synchronous_standby_names', 'holdfast.followers']) {
      await admin.query(`alter system reset ${setting}`, [], answerWithinMs)
    }
    return true
  })
}

/** The primary, while it takes traffic. */
function watchedNode({ topology, servers }: Supervisor, name: ShardName) {
  const shard = topology.shard(name)
  return shard.state === 'open' && servers.isRunning(shard.primary) ? nodeOf(shard, shard.primary) : undefined
}

async function isChanged({ topology, shardServers }: Supervisor, name: ShardName, admin: Connection): Promise<boolean> {
  const { rows } = await admin.query<{ names: string; followers: string | null }>(
    `select current_setting('synchronous_standby_names') as names, current_setting('holdfast.followers', true) as followers`,
    [],
    answerWithinMs,
  )
  const wanted = shardServers.synchronousNames(name, topology.shard(name))
  return rows.some(({ names, followers }) => names !== wanted || followers !== wanted)
}
