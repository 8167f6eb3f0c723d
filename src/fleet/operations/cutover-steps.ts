import type { ShardArchive } from '../../archive/archive.ts'
import { present } from '../../base/assert.ts'
import { HoldfastError } from '../../base/errors.ts'
import type { Epoch, ShardName } from '../../directory/topology.ts'
import { fenceShard } from '../../failover/fencing.ts'
import { formatLsn, type Lsn, parseLsn } from '../../postgres/lsn.ts'
import { withConnection } from '../../postgres/postgres.ts'
import { folderOf, nodeId, type Supervisor } from '../supervisor.ts'
import { nodeOf } from '../shard-servers.ts'
import type { NodeDocument, ShardDocument } from '../topology-store.ts'
import { openShard } from './failover.ts'

/** What a cutover does to the servers of an embedded fleet, step by step. Each may be run again after a crash. */

const graceMs = 2_000
const deadlineMs = 20_000
const archiveWithinMs = 30_000
const pollMs = 50

/** Where the old history of a shard ends, now that nothing can be added to it. */
export interface FencedShard {
  readonly epoch: Epoch
  readonly end: Lsn
}

/**
 * Closes the old epoch at the data: no opening and no stamp of it succeeds any more, and no transaction of it is open. Branches may
 * still be prepared; those that are decided can still be settled.
 */
export async function fenceForCutover(supervisor: Supervisor, name: ShardName, epoch: Epoch): Promise<void> {
  const { topology, shardServers, clock } = supervisor
  const shard = topology.shard(name)
  if (shard.state !== 'fenced') await topology.replaceShard(name, { ...shard, state: 'fenced' })
  await withConnection(shardServers.adminTarget(nodeOf(shard, shard.primary)), (admin) =>
    fenceShard(admin, epoch, { graceMs, deadlineMs, clock }),
  )
}

/** The end of a fenced shard's log; everything in it is flushed. */
export async function endOfLog(supervisor: Supervisor, name: ShardName): Promise<Lsn> {
  const shard = supervisor.topology.shard(name)
  const { rows } = await withConnection(supervisor.shardServers.adminTarget(nodeOf(shard, shard.primary)), (admin) =>
    admin.query<{ lsn: string }>('select pg_current_wal_flush_lsn()::text as lsn'),
  )
  return parseLsn(present(rows[0], 'one row').lsn)
}

/** Waits until the redo stream has everything up to the end. Throws `node_unavailable` when it does not get there. */
export async function awaitArchived(supervisor: Supervisor, archive: ShardArchive, end: Lsn): Promise<void> {
  const { clock } = supervisor
  const deadline = clock.monotonicMs() + archiveWithinMs
  for (;;) {
    const through = await archive.redoThrough()
    if (through !== undefined && through.lsn >= end) return
    if (clock.monotonicMs() > deadline) {
      const at = through === undefined ? 'nothing' : formatLsn(through.lsn)
      throw new HoldfastError(
        'node_unavailable',
        `the redo stream of ${archive.shard} is at ${at}, not at ${formatLsn(end)}`,
        {
          hint: 'a gateway in the region of the archive must run; then try again, the shard stays fenced',
        },
      )
    }
    await clock.sleep(pollMs)
  }
}

export interface AdoptedServer {
  /** The restored server as the host knows it; it is stopped here. */
  readonly serverId: string
  /** Its folder below the servers' folder. */
  readonly folder: string
}

/**
 * The restored server becomes the primary of its shard, at the epoch and history that were opened on it; new followers are
 * built from it; then the shard opens, its commits waiting for them. The nodes of the old history are stopped and removed.
 */
export async function adoptPrimary(
  supervisor: Supervisor,
  name: ShardName,
  restored: AdoptedServer,
  opened: Pick<ShardDocument, 'epoch' | 'historyId'>,
): Promise<ShardDocument> {
  const { topology, servers, shardServers } = supervisor
  const old = topology.shard(name)
  if (old.epoch === opened.epoch) return old
  const retired = old.nodes
  for (const node of retired) await servers.stop(node.id, 'fast')
  await servers.stop(restored.serverId, 'fast')
  const region = nodeOf(old, old.primary).region
  const primary = await shardServers.place(nodeId(name, old.nextNode), region, restored.folder)
  const followers: NodeDocument[] = []
  for (const [index, followerRegion] of shardServers.shardConfig(name).followers.entries()) {
    const number = old.nextNode + 1 + index
    followers.push(await shardServers.place(nodeId(name, number), followerRegion, folderOf(name, number)))
  }
  const document: ShardDocument = {
    ...old,
    ...opened,
    state: 'fenced',
    primary: primary.id,
    nodes: [primary],
    nextNode: old.nextNode + 1 + followers.length,
  }
  await shardServers.startPrimaryWithoutWaiting(document)
  await topology.replaceShard(name, document)
  for (const follower of followers) await shardServers.buildFollower(primary, follower)
  const whole = { ...document, nodes: [primary, ...followers] }
  await topology.replaceShard(name, whole)
  for (const node of retired) await servers.removeDirectory(node.folder)
  return whole
}

/** Lets traffic in: commits wait for followers, a barrier has passed. */
export function openAfterCutover(supervisor: Supervisor, name: ShardName): Promise<void> {
  return openShard(supervisor, name, supervisor.topology.shard(name))
}
