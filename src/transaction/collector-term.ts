import { HoldfastError } from '../base/errors.ts'
import type { ShardName } from '../directory/topology.ts'
import { ConnectionLost, ServerError } from '../postgres/failure.ts'
import type { LeftRecord } from './collection.ts'
import { CollectionDrains } from './collection-drains.ts'
import type { CollectionOptions } from './collector.ts'
import { collectionLimitsDefault, collectOnce } from './collector.ts'
import type { TransactionEnvironment } from './environment.ts'
import { describe } from './in-doubt.ts'
import { collectDecisions, collectKeys } from './trace-collector.ts'

/** Told once a pass, of what it had to leave. */
export type OnUncollected = (home: ShardName, left: LeftRecord) => void

/** Passes over one home, for as long as this process is elected there. Lost servers end a pass, not the term. */
export async function collectWhileElected(
  environment: TransactionEnvironment,
  home: ShardName,
  options: CollectionOptions,
  onUncollected: OnUncollected,
  elected: AbortSignal,
): Promise<void> {
  const { everyMs } = options.limits ?? collectionLimitsDefault
  const drains = new CollectionDrains()
  // Who was elected before may have ended between the two.
  let mayHaveDecisions = true
  while (!elected.aborted) {
    try {
      for (;;) {
        const { left, removed, isLastPage } = await collectOnce(environment, home, options, drains, elected)
        // What was not seen by a pass that was broken off says nothing.
        if (elected.aborted) return
        for (const one of left) onUncollected(home, one)
        mayHaveDecisions ||= removed > 0
        if (isLastPage || removed === 0) break
      }
      await collectKeys(environment, home, options, elected)
      if (mayHaveDecisions && !elected.aborted) {
        const { left } = await collectDecisions(environment, home, options, elected)
        mayHaveDecisions = left.length > 0
      }
    } catch (error) {
      if (elected.aborted) return
      if (!isOperating(error)) throw error
      onUncollected(home, { why: describe(error), needsPerson: false })
    }
    await environment.clock.sleep(everyMs, elected).catch(() => undefined)
  }
}

function isOperating(error: unknown): boolean {
  return error instanceof ConnectionLost || error instanceof ServerError || error instanceof HoldfastError
}
