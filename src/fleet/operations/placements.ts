import type { Placement } from '../../directory/directory.ts'
import type { ShardName } from '../../directory/topology.ts'
import { administer } from '../administer.ts'
import { readPlacements } from '../founding.ts'
import { nodeOf } from '../shard-servers.ts'
import type { Supervisor } from '../supervisor.ts'
import { HoldfastError } from '../../base/errors.ts'

const answerWithinMs = 2_000

/**
 * What a shard is the authority for, as any node of the shard has it: on the bad day its primary may be the one that does
 * not answer, and a follower's rows say the same. With what it takes up before it opens: the law of that is the law of its opening.
 */
export async function placementsOn(supervisor: Supervisor, name: ShardName): Promise<Placement[]> {
  const shard = supervisor.topology.shard(name)
  const ordered = [nodeOf(shard, shard.primary), ...shard.nodes.filter(({ id }) => id !== shard.primary)]
  for (const node of ordered) {
    if (!supervisor.servers.isRunning(node.id)) continue
    try {
      const known = await administer(supervisor.shardServers.adminTarget(node), (admin) =>
        readPlacements(admin, answerWithinMs),
      )
      return [...known.filter(({ shard: at }) => at === name), ...supervisor.takingUp.awaited(name, known)]
    } catch {
      // The next node has the same rows.
    }
  }
  throw new HoldfastError('node_unavailable', `no node of ${name} answers`, { hint: 'restore it from the archive' })
}
