import type { Progress } from '../../base/progress.ts'
import type { ShardName } from '../../directory/topology.ts'
import { toHlc } from '../../hlc/hlc.ts'
import { parseLsn } from '../../postgres/lsn.ts'
import { administer } from '../administer.ts'
import { archiveOf } from '../archives.ts'
import { nodeOf } from '../shard-servers.ts'
import type { Supervisor } from '../supervisor.ts'

const withinMs = 15_000
const pollMs = 50

/**
 * Lets the archives reach this moment, so that what was just committed can be restored to or left out. A shard whose primary
 * is gone, or whose archive does not get there in time or before the signal, is left as it is: the plan then says what is out of reach.
 */
export async function catchUpArchives(supervisor: Supervisor, progress: Progress, signal?: AbortSignal): Promise<void> {
  const shards = [...supervisor.config.shards.values()].filter(({ archive }) => archive !== null)
  progress({ step: 'archive', detail: 'up to this moment' })
  await Promise.all(shards.map(({ name }) => catchUp(supervisor, name, signal)))
}

async function catchUp(supervisor: Supervisor, name: ShardName, signal: AbortSignal | undefined): Promise<void> {
  const { clock, servers, shardServers, topology, config } = supervisor
  const shard = topology.shard(name)
  if (!servers.isRunning(shard.primary)) return
  const { rows } = await administer(shardServers.adminTarget(nodeOf(shard, shard.primary)), (admin) =>
    admin.query<{ lsn: string; clock: string }>(
      'select pg_current_wal_flush_lsn()::text as lsn, last_value::text as clock from holdfast.hlc',
    ),
  )
  const row = rows[0]
  if (row === undefined) return
  const [lsn, stamp] = [parseLsn(row.lsn), toHlc(BigInt(row.clock))]
  const archive = await archiveOf(config, name)
  const deadline = clock.monotonicMs() + withinMs
  while (clock.monotonicMs() < deadline && signal?.aborted !== true) {
    const through = await archive.redoThrough()
    if (through !== undefined && through.lsn >= lsn && through.closedTimestamp >= stamp) return
    await clock.sleep(pollMs)
  }
}
