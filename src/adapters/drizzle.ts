import { drizzle, type NodePgDatabase } from 'drizzle-orm/node-postgres'
import type { DrizzleConfig } from 'drizzle-orm'
import type { HasClients } from './adapters.ts'

/**
 * Drizzle on one domain of a transaction or a read.
 *
 * ```ts
 * import { drizzleOn } from 'holdfast/drizzle'
 *
 * await fleet.read({ tenant, session }, (read) =>
 *   drizzleOn(read, 'payroll').select().from(payrollRuns).where(eq(payrollRuns.id, run)))
 * ```
 *
 * `transaction()` is refused (B2). Drizzle wraps what a statement fails with in an error of its own, whose message has the
 * statement's values: log its `cause`, not the message (B3).
 */
export function drizzleOn<Schema extends Record<string, unknown> = Record<string, never>>(
  run: HasClients,
  domain: string,
  config: DrizzleConfig<Schema> = {},
): NodePgDatabase<Schema> {
  // It is asked for `query` alone; the types say that it is one of the clients of `pg`.
  return drizzle(run.client(domain) as never, config)
}
