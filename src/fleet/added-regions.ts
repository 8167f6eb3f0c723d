import { isDeepStrictEqual } from 'node:util'
import type { Jurisdiction, RegionName } from '../directory/topology.ts'
import { jurisdictionsOf } from './config.ts'
import type { Supervisor } from './supervisor.ts'

/**
 * Takes up the regions that the file has more than the topology, and the links of every node as they lie now: their paths go by the
 * order of the regions in the file. For a start that nothing in the file can refuse any more, since from then on the file has to
 * name what was added, and before a row that names it is written.
 */
export async function takeUpRegions({ config, topology, shardServers }: Supervisor): Promise<void> {
  const { document } = topology
  const shards = await Promise.all(
    Object.entries(document.shards).map(async ([name, shard]) => {
      const nodes = shard.nodes.map(async (node) => ({
        ...node,
        links: (await shardServers.place(node.id, node.region, node.folder)).links,
      }))
      return [name, { ...shard, nodes: await Promise.all(nodes) }] as const
    }),
  )
  const taken = {
    ...document,
    regions: Object.fromEntries(jurisdictionsOf(config.regions)) as Record<RegionName, Jurisdiction>,
    shards: Object.fromEntries(shards),
  }
  if (!isDeepStrictEqual(taken, document)) await topology.replace(taken)
}
