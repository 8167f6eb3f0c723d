import type { Placement, PlacementRow } from '../../directory/directory.ts'
import { placementFromRow } from '../../directory/directory.ts'
import type { ShardName } from '../../directory/topology.ts'
import { withConnection } from '../../postgres/postgres.ts'
import { nodeOf } from '../shard-servers.ts'
import type { Supervisor } from '../supervisor.ts'
import { HoldfastError } from '../../base/errors.ts'

/**
 * What a shard is the authority for, as any node of the shard has it: on the bad day its primary may be the one that does
 * not answer, and a follower's rows say the same.
 */
export async function placementsOn(supervisor: Supervisor, name: ShardName): Promise<Placement[]> {
  const shard = supervisor.topology.shard(name)
  const ordered = [nodeOf(shard, shard.primary), ...shard.nodes.filter(({ id }) => id !== shard.primary)]
  for (const node of ordered) {
    if (!supervisor.servers.isRunning(node.id)) continue
    try {
      const { rows } = await withConnection(supervisor.shardServers.adminTarget(node), (admin) =>
        admin.query<PlacementRow>(
          'select tenant, domain, shard, version, policy, policy_version, service from holdfast.placement where shard = $1',
          [name],
          2_000,
        ),
      )
      return rows.map(placementFromRow)
    } catch {
      // The next node has the same rows.
    }
  }
  throw new HoldfastError('node_unavailable', `no node of ${name} answers`, { hint: 'restore it from the archive' })
}
