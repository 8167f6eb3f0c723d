import { Kysely, PostgresDialect } from 'kysely'
import type { HasClients } from './adapters.ts'

/**
 * Kysely on one domain of a transaction or a read.
 *
 * ```ts
 * import { kyselyOn } from 'holdfast/kysely'
 *
 * await fleet.transact(action, async (tx) => {
 *   const payroll = kyselyOn<PayrollTables>(tx, 'payroll')
 *   const { total_cents } = await payroll.updateTable('payroll_runs').set({ status: 'approved' }).where('id', '=', run)
 *     .returning('total_cents').executeTakeFirstOrThrow()
 * })
 * ```
 *
 * `destroy` is not needed and closes nothing. `transaction()` is refused (B2); `stream()` is Kysely's error about a cursor.
 */
export function kyselyOn<Tables>(run: HasClients, domain: string): Kysely<Tables> {
  const client = run.client(domain)
  const connection = {
    // Kysely reads command, rowCount and rows.
    query: (text: string, values: readonly unknown[]) => client.query(text, values),
    release: () => undefined,
  }
  const pool = { connect: () => Promise.resolve(connection), end: () => Promise.resolve() }
  // The types of Kysely ask for cursors as well, which it uses where it is given one.
  return new Kysely<Tables>({ dialect: new PostgresDialect({ pool: pool as never }) })
}
