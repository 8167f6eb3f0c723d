import type { OnStep } from '../base/step.ts'
import type { Epoch, ShardName } from '../directory/topology.ts'
import type { Connection } from '../postgres/connection.ts'
import { withConnection } from '../postgres/postgres.ts'
import type { ShardServers } from './shard-servers.ts'
import { nodeOf } from './shard-servers.ts'
import type { ShardDocument, TopologyStore } from './topology-store.ts'

/** When a shard takes traffic: its commits wait for followers, and a barrier has passed (F2). */

const answerWithinMs = 30_000
const barrierWithinMs = 30_000

export interface OpeningParts {
  readonly topology: TopologyStore
  readonly shardServers: ShardServers
  readonly onStep: OnStep
}

/** Lets the first traffic of a history in. Each step may have been done before. */
export async function openShard(
  { topology, shardServers, onStep }: OpeningParts,
  name: ShardName,
  document: ShardDocument,
): Promise<void> {
  const primary = nodeOf(document, document.primary)
  const where = { shard: name }
  await onStep('opening names', where)
  await shardServers.reserveForArchive(name, primary)
  await shardServers.applySynchronousNames(name, document)
  await onStep('opening data', where)
  await withConnection(shardServers.adminTarget(primary), (admin) =>
    admin.query('call holdfast.open_shard($1)', [document.epoch], answerWithinMs),
  )
  await onStep('opening barrier', where)
  await shardServers.barrier(primary, barrierWithinMs)
  await shardServers.admit(primary)
  await onStep('opening tell', where)
  await topology.replaceShard(name, { ...document, state: 'open', promotion: undefined })
}

/** False for what a cutover closed: it has no followers yet, and the cutover opens it when it is run again. */
export async function mayOpen(
  { shardServers }: Pick<OpeningParts, 'shardServers'>,
  shard: ShardDocument,
): Promise<boolean> {
  if (shard.state === 'open') return true
  const primary = nodeOf(shard, shard.primary)
  return withConnection(shardServers.adminTarget(primary), (admin) => isOpenInData(admin, shard.epoch))
}

/** F2. False where the shard may not open. */
export async function passesBarrier(parts: OpeningParts, name: ShardName, shard: ShardDocument): Promise<boolean> {
  if (!(await mayOpen(parts, shard))) return false
  await parts.onStep('opening barrier', { shard: name })
  await parts.shardServers.barrier(nodeOf(shard, shard.primary), barrierWithinMs)
  return true
}

async function isOpenInData(admin: Connection, epoch: Epoch): Promise<boolean> {
  const { rows } = await admin.query(`select from holdfast.shard s where s.epoch = $1 and s.state = 'open'`, [epoch])
  return rows.length > 0
}
