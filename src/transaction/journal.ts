import type { ShardName, TransactionId } from '../directory/topology.ts'
import type { TransactionEnvironment } from './environment.ts'
import { primaryTarget } from './environment.ts'
import { journalReason } from './sql-errors.ts'
import * as decisions from './decision-store.ts'
import type { TransactRequest } from './transaction.ts'

/**
 * Keeps who tried what, and why it was refused, at the tenant's home; outside the history of committed actions. Written
 * in the background and in a transaction of its own: a journal that fails must not change what the caller is told.
 */
export function journalAttempt(
  environment: TransactionEnvironment,
  request: TransactRequest,
  transactionId: TransactionId,
  error: unknown,
): void {
  const { tenant, action, subject, actor } = request
  const { code, reason } = journalReason(error)
  environment.metrics.count('transaction_refused_total', { code })
  const home = homeOf(environment, tenant)
  if (home === undefined) return
  environment.background.run(async () => {
    const attempt = decisions.insertAttempt(transactionId, { tenant, action, subject, actor }, code, reason)
    const { pools, limits } = environment
    try {
      await pools.durableFlight(primaryTarget(environment, home), [attempt], limits.serviceWithinMs)
    } catch {
      // Where home does not answer, or is in no topology, nobody can keep it.
    }
  })
}

function homeOf({ directory }: TransactionEnvironment, tenant: string): ShardName | undefined {
  const current = directory.current()
  return current.tenants().some((name) => name === tenant) ? current.home(tenant) : undefined
}
