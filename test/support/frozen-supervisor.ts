import { systemClock } from '../../src/base/clock.ts'
import type { ShardTopology, Topology } from '../../src/directory/topology.ts'
import type { Call } from '../../src/fleet/control.ts'
import { ControlledTopology } from '../../src/fleet/controlled-topology.ts'
import type { ShardDocument, TopologyDocument } from '../../src/fleet/topology-store.ts'

/** What a gateway knows whose supervisor has told it once, and stands still: no question is answered any more. */
export function frozenSupervisor(topology: Topology): Promise<ControlledTopology> {
  let asked = 0
  const call: Call = () => (++asked === 1 ? Promise.resolve(documentOf(topology)) : new Promise(() => undefined))
  return ControlledTopology.open(call, undefined, systemClock)
}

export function documentOf({ version, fleet, regions, shards }: Topology): TopologyDocument {
  return {
    version,
    fleet,
    regions: Object.fromEntries(regions),
    shards: Object.fromEntries([...shards].map(([name, shard]) => [name, shardDocument(shard)])),
  }
}

function shardDocument({ durability, epoch, historyId, state, primary, followers }: ShardTopology): ShardDocument {
  const nodes = [primary, ...followers].map(({ id, region, host, port }) => ({
    id,
    region,
    folder: id,
    host,
    port,
    links: {},
  }))
  return { durability, epoch, historyId, state, primary: primary.id, nodes, nextNode: nodes.length + 1 }
}
