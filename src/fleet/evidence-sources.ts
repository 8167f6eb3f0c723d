import type { ShardArchive } from '../archive/archive.ts'
import type { EvidenceSources } from '../evidence/gather.ts'
import type { TimelineEntry, TimelineRange } from '../evidence/timeline.ts'
import { readTimeline } from '../evidence/timeline-reader.ts'
import type { ShardName } from '../directory/topology.ts'
import { readDeliveries } from '../transaction/outbox/delivery-journal.ts'
import type { DeliveryRecord } from '../transaction/outbox/delivery-record.ts'
import { archiveOf } from './archives.ts'
import { newestDrillThrough } from './drill-reports.ts'
import type { GatewayParts } from './gateway-parts.ts'
import { journalPath } from './journal-path.ts'

/** Where the evidence of an embedded fleet is found: its servers, its archives, and the journals of its home. */
export function evidenceSources(parts: GatewayParts): EvidenceSources {
  const { config, home, environment } = parts
  return {
    environment,
    archiveOf: async (shard) => {
      const archive = config.shards.get(shard)?.archive
      return archive == null ? undefined : { archive: await archiveOf(config, shard), region: archive.region }
    },
    deliveriesOf: (shard, transactionId) => deliveriesOf(journalPath(home, shard), transactionId),
    receiver: config.outbox !== null,
    drillOf: (transactionId, commitTimestamp) => newestDrillThrough(home.drillsDir, transactionId, commitTimestamp),
  }
}

async function deliveriesOf(journal: string, transactionId: string): Promise<DeliveryRecord[]> {
  const records: DeliveryRecord[] = []
  for await (const record of readDeliveries(journal)) {
    if (record.transactionId === transactionId) records.push(record)
  }
  return records
}

/** Throws `unknown_tenant`. */
export async function* timelineOf(parts: GatewayParts, range: TimelineRange): AsyncGenerator<TimelineEntry> {
  // Silence about a tenant that there is not would read as if nothing had happened.
  if (range.tenant !== undefined) (await parts.directory.refresh()).placementsOf(range.tenant)
  yield* readTimeline({ environment: parts.environment, archives: await archivesOf(parts) }, range)
}

/** The archives that this process can read, by shard. */
async function archivesOf(parts: GatewayParts): Promise<ReadonlyMap<ShardName, ShardArchive>> {
  const named = [...parts.config.shards.values()].filter(({ archive }) => archive !== null)
  return new Map(await Promise.all(named.map(async ({ name }) => [name, await archiveOf(parts.config, name)] as const)))
}
