import type { FleetNode, ShardTopology } from '../directory/topology.ts'
import { type Hlc, toHlc } from '../hlc/hlc.ts'
import { accepted } from '../postgres/statement.ts'
import type { GatewayParts } from './gateway-parts.ts'
import type { FleetStatus, NodeStatus, ShardStatus } from './operations-api.ts'

const answerWithinMs = 2_000

const nodeStatement = {
  text: `select case when pg_is_in_recovery() then pg_last_wal_replay_lsn() else pg_current_wal_flush_lsn() end::text
      as position,
    (select closed_timestamp::text from holdfast.closed) as closed,
    (select count(*)::int from pg_prepared_xacts where database = current_database()) as in_doubt,
    case when not pg_is_in_recovery() then holdfast.acknowledging() end as acknowledging`,
}

interface NodeAnswer {
  readonly position: string
  readonly closed: string
  readonly in_doubt: number
  readonly acknowledging: number | null
}

/** The fleet as this gateway reaches it at this moment. A node that does not answer in time is unreachable. */
export async function fleetStatus(parts: GatewayParts): Promise<FleetStatus> {
  const topology = await parts.topology.refresh()
  const shards = await Promise.all([...topology.shards.values()].map((shard) => shardStatus(parts, shard)))
  const ready = shards.every(
    ({ state, nodes }) => state === 'open' && nodes.some(({ role, reachable }) => role === 'primary' && reachable),
  )
  return { fleet: topology.fleet, region: parts.region, ready, shards }
}

async function shardStatus(parts: GatewayParts, shard: ShardTopology): Promise<ShardStatus> {
  const nodes = [shard.primary, ...shard.followers]
  const answers = await Promise.all(nodes.map((node) => askNode(parts, node)))
  const primary = answers[0]
  return {
    shard: shard.name,
    state: shard.state,
    durability: shard.durability,
    epoch: shard.epoch,
    historyId: shard.historyId,
    closedTimestamp: primary === undefined ? null : closedOf(primary),
    inDoubt: primary?.in_doubt ?? 0,
    acknowledging: primary?.acknowledging ?? null,
    nodes: nodes.map((node, index) => nodeStatus(node, answers[index])),
  }
}

async function askNode(parts: GatewayParts, node: FleetNode): Promise<NodeAnswer | undefined> {
  try {
    const [outcome] = await parts.pools.flight(parts.environment.targetOf(node), [nodeStatement], answerWithinMs)
    const [row] = outcome === undefined ? [] : accepted(outcome).rows
    return row === undefined
      ? undefined
      : {
          position: String(row['position']),
          closed: String(row['closed']),
          in_doubt: Number(row['in_doubt']),
          acknowledging: row['acknowledging'] === null ? null : Number(row['acknowledging']),
        }
  } catch {
    // Whatever keeps it from answering is what the status says.
    return undefined
  }
}

function closedOf(answer: NodeAnswer): Hlc {
  return toHlc(BigInt(answer.closed))
}

function nodeStatus(node: FleetNode, answer: NodeAnswer | undefined): NodeStatus {
  return {
    node: node.id,
    region: node.region,
    role: node.role,
    reachable: answer !== undefined,
    position: answer?.position ?? null,
  }
}
