import type { ShardName } from '../directory/topology.ts'
import { withConnection } from '../postgres/postgres.ts'
import { nodeOf } from './shard-servers.ts'
import type { Supervisor } from './supervisor.ts'
import type { ShardDocument } from './topology-store.ts'

/**
 * HZ-S5: watches whom the commits of every primary wait for. Whoever can set it, a tool or a person in a hurry, can empty it:
 * then the shard refuses its commits, and here it is told and put back to what the topology says.
 */

const everyMs = 2_000
const answerWithinMs = 2_000

/** Runs until the fleet stops. A primary that does not answer is the business of others. */
export async function watchNames(supervisor: Supervisor): Promise<void> {
  const { clock, closing, topology } = supervisor
  while (!closing.aborted) {
    await Promise.all(
      (Object.keys(topology.document.shards) as ShardName[]).map((name) =>
        restoreNames(supervisor, name).catch(() => undefined),
      ),
    )
    await clock.sleep(everyMs, closing).catch(() => undefined)
  }
}

async function restoreNames(supervisor: Supervisor, name: ShardName): Promise<void> {
  if (!(await isChanged(supervisor, name))) return
  await supervisor.exclusively(async () => {
    // A change that was under way has ended.
    if (!(await isChanged(supervisor, name))) return
    const { topology, shardServers, progress } = supervisor
    const shard = topology.shard(name)
    progress({ step: 'alarm', detail: `${name}: somebody changed whom its commits wait for; it is put back` })
    await withConnection(shardServers.adminTarget(nodeOf(shard, shard.primary)), (admin) =>
      admin.query('alter system reset synchronous_standby_names', [], answerWithinMs),
    )
    await shardServers.applySynchronousNames(name, shard)
  })
}

async function isChanged({ topology, servers, shardServers }: Supervisor, name: ShardName): Promise<boolean> {
  const shard: ShardDocument = topology.shard(name)
  if (shard.state !== 'open' || !servers.isRunning(shard.primary)) return false
  const { rows } = await withConnection(shardServers.adminTarget(nodeOf(shard, shard.primary)), (admin) =>
    admin.query<{ names: string }>(`select current_setting('synchronous_standby_names') as names`, [], answerWithinMs),
  )
  return rows[0]?.names !== shardServers.synchronousNames(name, shard)
}
