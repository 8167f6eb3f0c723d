import { Connection } from '../postgres/connection.ts'
import { parseLsn } from '../postgres/lsn.ts'
import { administer } from './administer.ts'
import { isExhaustedCondition } from '../postgres/server/follower.ts'
import type { Sight } from './following.ts'
import { slotName } from './node-settings.ts'
import type { ShardServers } from './shard-servers.ts'
import { nodeOf } from './shard-servers.ts'
import type { NodeDocument, ShardDocument } from './topology-store.ts'

/** What can be seen of the followers of a shard from their primary, from themselves and on the way between. */

export interface FollowerSight extends Sight {
  readonly node: NodeDocument
}

const connectWithinMs = 2_000
const answerWithinMs = 2_000

/** Throws when the primary does not answer. Who streams is not asked anything. */
export async function seeFollowers(shardServers: ShardServers, shard: ShardDocument): Promise<FollowerSight[]> {
  const primary = nodeOf(shard, shard.primary)
  const followers = shard.nodes.filter(({ id }) => id !== shard.primary)
  const { rows } = await administer(shardServers.adminTarget(primary), (admin) =>
    admin.query<{ id: string; isStreaming: boolean; isSlotLost: boolean }>(
      `select f.id, exists (select from pg_stat_replication r
           where r.application_name = f.id and r.state in ('catchup', 'streaming')) as "isStreaming",
         exists (select from pg_replication_slots s where s.slot_name = f.slot and s.wal_status = 'lost') as "isSlotLost"
       from unnest($1::text[], $2::name[]) f(id, slot)`,
      [followers.map(({ id }) => id), followers.map(({ id }) => slotName(id))],
      answerWithinMs,
    ),
  )
  return Promise.all(
    followers.map(async (node): Promise<FollowerSight> => {
      const { isStreaming = false, isSlotLost = false } = rows.find(({ id }) => id === node.id) ?? {}
      if (isStreaming || isSlotLost) return { node, isStreaming, isSlotLost, replay: null, isLinked: true }
      const [replay, isLinked] = await Promise.all([
        seeReplay(shardServers, node),
        isReached(shardServers, primary, node),
      ])
      return { node, isStreaming, isSlotLost, replay, isLinked }
    }),
  )
}

async function seeReplay(shardServers: ShardServers, node: NodeDocument): Promise<Sight['replay']> {
  try {
    const connection = await Connection.connect(shardServers.adminTarget(node), connectWithinMs)
    try {
      const { rows } = await connection.query<{ position: string | null; isExhausted: boolean }>(
        `select pg_last_wal_replay_lsn()::text as position, ${isExhaustedCondition} as "isExhausted"`,
        [],
        answerWithinMs,
      )
      const [row] = rows
      return row?.position == null ? null : { position: parseLsn(row.position), isExhausted: row.isExhausted }
    } finally {
      connection.release()
    }
  } catch {
    return null
  }
}

async function isReached(shardServers: ShardServers, primary: NodeDocument, node: NodeDocument): Promise<boolean> {
  try {
    const connection = await Connection.connect(shardServers.sourceOf(primary, node), connectWithinMs)
    connection.release()
    return true
  } catch {
    return false
  }
}
