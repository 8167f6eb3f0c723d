import type { Progress } from '../../base/progress.ts'
import type { ShardName } from '../../directory/topology.ts'
import { bringBack } from '../node-restart.ts'
import { letIn, passesBarrier } from '../opening.ts'
import { nodeOf } from '../shard-servers.ts'
import type { Supervisor } from '../supervisor.ts'
import type { ShardDocument } from '../topology-store.ts'

/** How the shard was before. */
export interface Before {
  readonly shard: ShardDocument
  readonly wasRunning: boolean
}

/**
 * Nothing was promoted: the followers follow as before, and a primary that was stopped for it goes on. Where those that its
 * commits wait for are away, the shard opens when they are back: the promotion is refused for their sake, and nobody would
 * come again. Never rejects: what fails is told as an alarm.
 */
export async function takeBack(
  supervisor: Supervisor,
  name: ShardName,
  before: Before,
  progress: Progress,
): Promise<void> {
  try {
    await goBack(supervisor, name, before)
  } catch (error) {
    const why = error instanceof Error ? error.message : String(error)
    progress({ step: 'alarm', detail: `${name}: a refused promotion is not taken back: ${why}` })
  }
}

async function goBack(supervisor: Supervisor, name: ShardName, { shard, wasRunning }: Before): Promise<void> {
  const { servers, shardServers, topology } = supervisor
  const primary = nodeOf(shard, shard.primary)
  for (const node of shard.nodes) {
    if (node.id === primary.id || !servers.isRunning(node.id)) continue
    try {
      await shardServers.pointBack(primary, node)
      await shardServers.tidySlots(name, shard, node)
    } catch {
      // Started again it follows the primary, and keeps its log for nobody.
      await servers.stop(node.id, 'immediate')
      void supervisor.run(() => bringBack(supervisor, node.id)).catch(() => undefined)
    }
  }
  if (!wasRunning) return topology.replaceShard(name, shard)
  try {
    await shardServers.startPrimary(name, shard)
    const isOpen = await passesBarrier(supervisor, name, topology.shard(name))
    if (isOpen) await letIn(supervisor, name, shard)
    await topology.replaceShard(name, { ...shard, state: isOpen ? 'open' : shard.state })
  } catch {
    void supervisor.run(() => bringBack(supervisor, primary.id)).catch(() => undefined)
  }
}
