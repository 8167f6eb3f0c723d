import type { Metrics } from '../base/metrics.ts'
import type { ShardName } from '../directory/topology.ts'
import type { StatementOutcome } from '../postgres/statement.ts'
import { sqlState } from '../postgres/sqlstate.ts'

/**
 * What became of a timestamp from elsewhere: how far it left the shard's clock ahead of its server's wall, or that it was
 * refused. Of a statement whose row has `ahead_ms`.
 */
export function noteAdoption(metrics: Metrics, shard: ShardName, outcome: StatementOutcome | undefined): void {
  if (outcome === undefined) return
  if (!outcome.ok) {
    if (outcome.error.sqlState === sqlState.clockOffsetExceeded) metrics.count('clock_refused_total', { shard })
    return
  }
  const aheadMs = Number(outcome.rows[0]?.['ahead_ms'])
  if (aheadMs > 0) metrics.observe('clock_adopted_ms', aheadMs, { shard })
}
