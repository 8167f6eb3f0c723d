import { present } from '../base/assert.ts'
import type { MetricName } from '../base/metrics.ts'
import type { ShardName, ShardTopology } from '../directory/topology.ts'
import type { Statement } from '../postgres/statement.ts'
import type { LeftRecord } from './collection.ts'
import * as collections from './collection-store.ts'
import type { CollectionOptions } from './collector.ts'
import { ask, collectionLimitsDefault } from './collector.ts'
import type { TransactionEnvironment } from './environment.ts'
import { shardOf } from './environment.ts'
import { describe } from './in-doubt.ts'

/**
 * Collects what a transaction leaves beside its record: idempotency keys at home, decisions ABORTED at participants.
 *
 *   K7  A decision ABORTED goes once the record that it came from has: behind home's watermark, which is on home's
 *       followers, no branch is prepared and none can be, so nobody asks for it.
 *   K8  A key goes once its transaction was born and stamped longer ago than keys are kept, and nobody who was born before that
 *       can claim one any more. It is asked for at its home alone, so there is nobody else to be told.
 *
 * Each removal is one statement at one shard. What a failover loses of it comes back and goes again.
 */

/** K8, a page after the other. Throws what home throws. Tells how many went. */
export async function collectKeys(
  environment: TransactionEnvironment,
  home: ShardName,
  { windowMs, limits = collectionLimitsDefault }: CollectionOptions,
  signal?: AbortSignal,
): Promise<number> {
  const at = shardOf(environment, home)
  const page = () => collections.collectKeys(environment.clock.wallMs(), windowMs, limits.pageMax, at.epoch)
  return collectPages(environment, at, page, limits.pageMax, 'keys_collected_total', signal)
}

/** K7, on every shard that answers. Throws what home throws. */
export async function collectDecisions(
  environment: TransactionEnvironment,
  home: ShardName,
  { limits = collectionLimitsDefault }: CollectionOptions,
  signal?: AbortSignal,
): Promise<{ readonly removed: number; readonly left: readonly LeftRecord[] }> {
  const at = shardOf(environment, home)
  const [through] = await ask(environment, at, [collections.selectCollectedThrough])
  const throughMs = collections.readCollectedThrough(present(through, 'the watermark'))
  if (throughMs === 0) return { removed: 0, left: [] }
  await environment.barriers.pass(home, at.primary.id)
  const left: LeftRecord[] = []
  const others = [...environment.topology.current().shards.values()].filter(
    ({ name, durability }) => name !== home && durability !== 'local',
  )
  const page = () => collections.collectDecisions(home, at.epoch, throughMs, limits.pageMax)
  const removed = await Promise.all(
    others.map((shard) =>
      collectPages(environment, shard, page, limits.pageMax, 'decisions_collected_total', signal).catch(
        (error: unknown) => {
          left.push({ why: `${shard.name}: ${describe(error)}`, needsPerson: false })
          return 0
        },
      ),
    ),
  )
  return { removed: removed.reduce((sum, count) => sum + count, 0), left }
}

async function collectPages(
  environment: TransactionEnvironment,
  shard: ShardTopology,
  page: () => Statement,
  pageMax: number,
  metric: MetricName,
  signal: AbortSignal | undefined,
): Promise<number> {
  let total = 0
  for (;;) {
    const [removal] = await ask(environment, shard, [page()])
    const removed = collections.readCollected(present(removal, 'what was removed'))
    for (let counted = 0; counted < removed; counted += 1) environment.metrics.count(metric, { shard: shard.name })
    total += removed
    if (removed < pageMax || signal?.aborted === true) return total
  }
}
