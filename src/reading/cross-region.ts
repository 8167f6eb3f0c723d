import type { FleetNode } from '../directory/topology.ts'
import type { ReadEnvironment } from './environment.ts'
import type { Declared } from './routes.ts'

/**
 * Counts a read that was answered outside the region of its gateway, by its route; where it was declared local, that is a
 * drift. It is answered all the same: a local read leaves its region also when the node that is near cannot prove the
 * frontier, and refusing it then would make an outage of a follower that is late.
 */
export function countCrossRegion(environment: ReadEnvironment, { route, reach }: Declared, node: FleetNode): void {
  const { region, metrics, routes, drifts } = environment
  if (node.region === region) return
  const labels = { from: region, to: node.region, route: routes.labelOf(route) }
  metrics.count('cross_region_fanout_total', labels)
  if (reach !== 'local') return
  metrics.count('cross_region_drift_total', labels)
  drifts.note({ shard: node.shard, route: labels.route, to: node.region })
}
