import type { ShardName, ShardState } from '../directory/topology.ts'
import { fleetHome } from '../fleet/home.ts'
import { cutoversLeft } from '../recovery/cutovers-left.ts'

/** A shard that takes no traffic, in words for who can do something about it. */

export interface ClosedShard {
  readonly shard: string
  readonly state: 'fenced' | 'lost'
  /** What holds it, of which a failover may be refused. */
  readonly cutover: { readonly environment: string; readonly canBeGivenUp: boolean } | null
}

/** Of the fleet on this data directory. */
export async function closedShards(
  dataDir: string,
  shards: readonly { readonly shard: string; readonly state: ShardState }[],
): Promise<ClosedShard[]> {
  const { environmentsDir } = fleetHome(dataDir)
  const closed = await Promise.all(
    shards.map(async ({ shard, state }): Promise<ClosedShard[]> => {
      if (state === 'open') return []
      // One that is lost is promoted behind the fence, as long as that is possible.
      const [left] = state === 'lost' ? [] : await cutoversLeft(environmentsDir, shard as ShardName)
      if (left === undefined) return [{ shard, state, cutover: null }]
      const { environment, journal } = left
      return [{ shard, state, cutover: { environment, canBeGivenUp: journal.state === 'fencing' } }]
    }),
  )
  return closed.flat()
}

export function describeClosed({ shard, state, cutover }: ClosedShard): string {
  const told = `${shard} takes no traffic, it is ${state}`
  if (cutover === null) return `${told}; what can be done says: holdfast failover ${shard} --what-if`
  const { environment, canBeGivenUp } = cutover
  const again = `${told} by the cutover to ${environment}; run it again: holdfast cutover ${environment}`
  return canBeGivenUp ? `${again}, or give it up: holdfast cutover ${environment} --abandon` : again
}
