import type { CollectionOptions } from '../../src/transaction/collector.ts'
import { collectionLimitsDefault } from '../../src/transaction/collector.ts'
import { Resolver } from '../../src/transaction/resolver.ts'
import { transact } from '../../src/transaction/transaction.ts'
import { approve, eager, gate, gatewayOf, newRun, request } from './approval.ts'
import type { DatabaseShards } from './database-shards.ts'
import { treasury } from './database-shards.ts'

/** A collection for which everything is old enough, of shards without an archive. */
export const everything: CollectionOptions = {
  windowMs: 0,
  archivedThrough: () => Promise.resolve('no archive'),
  limits: { ...collectionLimitsDefault, archiveWithinMs: 0, pollMs: 5 },
}

/** A transaction whose coordinator is gone: a resolver has written its record, and rolled its branch back. */
export async function presumedAborted(shards: DatabaseShards): Promise<void> {
  const stop = gate('global record inserted')
  const { environment, kill } = await shards.gateway({ onStep: stop.onStep })
  const run = newRun()
  transact(environment, request(run), approve(run)).catch(() => undefined)
  await stop.reached
  await kill()
  await new Resolver({ environment: await gatewayOf(shards), limits: eager }).resolveOnce(treasury)
}
