import { HoldfastError } from '../base/errors.ts'
import type { Statement } from '../postgres/statement.ts'
import { serialise } from '../postgres/driver.ts'
import type { StatementVerdict } from './statement-guard.ts'
import { guardBatched, guardStatement } from './statement-guard.ts'
import type { DomainQuery } from './transaction.ts'

/** The caller's statements on their way in. */

/** What a query builder hands to a `pg` client, as a statement. */
export function toStatement(query: string | DomainQuery, values: readonly unknown[] | undefined): Statement {
  const { text, rowMode, types, values: own } = typeof query === 'string' ? { text: query } : query
  const given = values ?? own
  return {
    text,
    ...(given === undefined ? {} : { values: given }),
    ...(rowMode === undefined ? {} : { rowMode }),
    ...(types === undefined ? {} : { types }),
  }
}

/** Throws `statement_refused`. */
export function requireAllowed(text: string): void {
  requirePassed(guardStatement(text))
}

/** Throws `statement_refused`. */
export function requireAllowedInBatch(text: string): void {
  requirePassed(guardBatched(text))
}

function requirePassed(verdict: StatementVerdict): void {
  if (!verdict.allowed) throw new HoldfastError('statement_refused', verdict.reason, { hint: verdict.hint })
}

/** Throws `argument_invalid` for a value that has no form on the wire. */
export function requireSendable(statement: Statement): void {
  try {
    serialise(statement)
  } catch (error) {
    throw error instanceof TypeError ? unsendable(error) : error
  }
}

/** A value of the caller's that has no form on the wire. */
export function unsendable(error: TypeError): HoldfastError {
  return new HoldfastError('argument_invalid', `a value cannot be sent: ${error.message}`, { cause: error })
}
