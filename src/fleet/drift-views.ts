import { present } from '../base/assert.ts'
import { formatWallMs } from '../base/clock.ts'
import type { ShardTopology } from '../directory/topology.ts'
import { readDrifts, selectDrifts } from '../reading/drift-store.ts'
import { toReadError } from '../reading/read-failure.ts'
import type { GatewayParts } from './gateway-parts.ts'
import type { DriftView } from './operations-api.ts'

const answerWithinMs = 5_000

/** The drifts of all shards, each told by its primary. Throws `node_unavailable`: a list without one would look whole. */
export async function driftViews(parts: Pick<GatewayParts, 'reading'>): Promise<DriftView[]> {
  const shards = [...parts.reading.topology.current().shards.values()]
  const views = (await Promise.all(shards.map((shard) => driftsOn(parts, shard)))).flat()
  return views.toSorted((a, b) => b.lastAt.localeCompare(a.lastAt))
}

async function driftsOn({ reading }: Pick<GatewayParts, 'reading'>, shard: ShardTopology): Promise<DriftView[]> {
  const { name, primary } = shard
  try {
    const [outcome] = await reading.pools.flight(reading.targetOf(primary), [selectDrifts], answerWithinMs)
    return readDrifts(present(outcome, 'the outcome of the list')).map(({ firstMs, lastMs, ...drift }) => ({
      ...drift,
      shard: name,
      firstAt: formatWallMs(firstMs),
      lastAt: formatWallMs(lastMs),
    }))
  } catch (error) {
    throw toReadError(error, primary)
  }
}
