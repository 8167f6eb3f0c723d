import type { NodeId, ShardName } from '../directory/topology.ts'
import { Connection } from '../postgres/connection.ts'
import { withConnection } from '../postgres/postgres.ts'
import { nodeOf } from './shard-servers.ts'
import type { Supervisor } from './supervisor.ts'

/**
 * HZ-S5: watches whom the commits of every primary wait for. Whoever can set it, a tool or a person in a hurry, can empty it:
 * then the shard refuses its commits, and here it is told and put back to what the topology says.
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
  while (!closing.aborted) {
    await Promise.all(
      (Object.keys(topology.document.shards) as ShardName[]).map((name) =>
        watchNamesOf(supervisor, name, watches).catch(() => endWatch(watches, name)),
      ),
    )
    await clock.sleep(everyMs, closing).catch(() => undefined)
  }
  for (const name of watches.keys()) endWatch(watches, name)
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
  await supervisor.exclusively(async () => {
    const node = watchedNode(supervisor, name)
    if (node === undefined) return
    const { topology, shardServers, progress } = supervisor
    const isReset = await withConnection(shardServers.adminTarget(node), async (admin) => {
      // A change that was under way has ended.
      if (!(await isChanged(supervisor, name, admin))) return false
      progress({ step: 'alarm', detail: `${name}: somebody changed whom its commits wait for; it is put back` })
      await admin.query('alter system reset synchronous_standby_names', [], answerWithinMs)
      return true
    })
    if (isReset) await shardServers.applySynchronousNames(name, topology.shard(name))
  })
}

/** The primary, while it takes traffic. */
function watchedNode({ topology, servers }: Supervisor, name: ShardName) {
  const shard = topology.shard(name)
  return shard.state === 'open' && servers.isRunning(shard.primary) ? nodeOf(shard, shard.primary) : undefined
}

async function isChanged({ topology, shardServers }: Supervisor, name: ShardName, admin: Connection): Promise<boolean> {
  const { rows } = await admin.query<{ names: string }>(
    `select current_setting('synchronous_standby_names') as names`,
    [],
    answerWithinMs,
  )
  return rows[0]?.names !== shardServers.synchronousNames(name, topology.shard(name))
}
