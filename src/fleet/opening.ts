import type { OnStep } from '../base/step.ts'
import type { Epoch, NodeId, ShardName } from '../directory/topology.ts'
import type { Connection } from '../postgres/connection.ts'
import { administer } from './administer.ts'
import type { Release } from '../postgres/release.ts'
import type { ShardServers } from './shard-servers.ts'
import { nodeOf } from './shard-servers.ts'
import type { TakingUp } from './taking-up.ts'
import type { ShardDocument, TopologyStore } from './topology-store.ts'
import { requireRelease } from './upgrade.ts'

/** When a shard takes traffic: its commits wait for followers, and a barrier has passed (F2). */

const answerWithinMs = 30_000
/** One row, while others wait their turn. */
const lookWithinMs = 10_000
const barrierWithinMs = 30_000

export interface OpeningParts {
  readonly topology: TopologyStore
  readonly shardServers: ShardServers
  readonly onStep: OnStep
  readonly release: Release
  readonly takingUp: TakingUp
}

/** Lets the first traffic of a history in. Each step may have been done before. */
export async function openShard(parts: OpeningParts, name: ShardName, document: ShardDocument): Promise<void> {
  const { topology, shardServers, onStep } = parts
  const primary = nodeOf(document, document.primary)
  const where = { shard: name }
  await onStep('opening names', where)
  await shardServers.reserveForArchive(name, primary)
  await shardServers.applySynchronousNames(name, document)
  await onStep('opening data', where)
  await administer(shardServers.adminTarget(primary), (admin) =>
    admin.query('call holdfast.open_shard($1)', [document.epoch], answerWithinMs),
  )
  await onStep('opening barrier', where)
  await shardServers.barrier(primary, barrierWithinMs)
  await letIn(parts, name, document)
  await onStep('opening tell', where)
  await topology.replaceShard(name, { ...document, state: 'open', promotion: undefined })
}

/**
 * False for what a cutover closed, which opens it when it is run again or given up: it may have no followers yet. The data says so, and
 * not the topology, which a cutover tells at the end.
 */
export async function mayOpen(
  { shardServers }: Pick<OpeningParts, 'shardServers'>,
  shard: ShardDocument,
): Promise<boolean> {
  const primary = nodeOf(shard, shard.primary)
  return administer(shardServers.adminTarget(primary), (admin) => isOpenInData(admin, shard.epoch))
}

/** F2. False where the shard may not open. Throws `release_differs` where no start has brought it to the release. */
export async function passesBarrier(parts: OpeningParts, name: ShardName, shard: ShardDocument): Promise<boolean> {
  const { shardServers, release, onStep } = parts
  const primary = nodeOf(shard, shard.primary)
  const isOpen = await administer(shardServers.adminTarget(primary), async (admin) => {
    if (!(await isOpenInData(admin, shard.epoch))) return false
    await requireRelease(admin, name, release)
    return true
  })
  if (!isOpen) return false
  await onStep('opening barrier', { shard: name })
  await shardServers.barrier(primary, barrierWithinMs)
  return true
}

/** Lets gateways in, behind a barrier. */
export async function letIn(
  { shardServers, takingUp }: Pick<OpeningParts, 'shardServers' | 'takingUp'>,
  name: ShardName,
  shard: ShardDocument,
): Promise<void> {
  await takingUp.run(name, shard)
  await shardServers.admit(nodeOf(shard, shard.primary))
}

/**
 * U6: the topology follows the epoch of the data, also where a start was ended in between. Asked of one of the shard's nodes, whose
 * rows may be late.
 */
export async function takeUpEpoch(
  { shardServers, topology }: Pick<OpeningParts, 'shardServers' | 'topology'>,
  name: ShardName,
  id: NodeId = topology.shard(name).primary,
): Promise<void> {
  const shard = topology.shard(name)
  const { rows } = await administer(shardServers.adminTarget(nodeOf(shard, id)), (admin) =>
    admin.query<{ epoch: Epoch }>(
      `select s.epoch from holdfast.shard s where s.state = 'open' and s.history_id = $1 and s.epoch > $2`,
      [shard.historyId, shard.epoch],
      lookWithinMs,
    ),
  )
  const [ahead] = rows
  if (ahead !== undefined) await topology.replaceShard(name, { ...shard, epoch: ahead.epoch })
}

async function isOpenInData(admin: Connection, epoch: Epoch): Promise<boolean> {
  const { rows } = await admin.query(
    `select from holdfast.shard s where s.epoch = $1 and s.state = 'open'`,
    [epoch],
    lookWithinMs,
  )
  return rows.length > 0
}
