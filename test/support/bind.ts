import type { Statement } from '../../src/postgres/statement.ts'

/** What an opening binds, for a test that sends its own statements: the settings, without the role. */
export function bind(tenant: string, transactionId: string, placements = '{"payroll": 1}'): Statement {
  return {
    text: `select set_config('holdfast.tenant', $1, true), set_config('holdfast.transaction', $2, true),
             set_config('holdfast.placements', $3, true)`,
    values: [tenant, transactionId, placements],
  }
}

/** A stamp of that tenant at epoch 1, by placement 1 of `payroll`. */
export function stampOf(tenant: string, transactionId: string, after = '0'): Statement {
  return {
    text: `select holdfast.stamp($1, $2, 1, null, 'a', 's', 'x', '{"payroll": 1}', '{}', ${after}, null, '[]')`,
    values: [transactionId, tenant],
  }
}
