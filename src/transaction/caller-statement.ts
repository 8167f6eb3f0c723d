import { HoldfastError } from '../base/errors.ts'
import type { Statement } from '../postgres/statement.ts'
import { serialise } from '../postgres/driver.ts'
import type { StatementVerdict } from './statement-guard.ts'
import { guardBatched, guardStatement } from './statement-guard.ts'
import type { DomainQuery } from './transaction.ts'

/** The caller's statements on their way in. */

/**
 * What a query builder hands to a `pg` client, as a statement with its values as they are now: what their owner makes of them
 * before they are sent changes nothing. Throws `argument_invalid` for a value that has no form on the wire.
 */
export function toStatement(query: string | DomainQuery, values: readonly unknown[] | undefined): Statement {
  const { text, rowMode, types, values: own } = typeof query === 'string' ? { text: query } : query
  const given = values ?? own
  const taken = takeValues(text, given)
  return {
    text,
    ...(given === undefined ? {} : { values: taken }),
    ...(rowMode === undefined ? {} : { rowMode }),
    ...(types === undefined ? {} : { types }),
  }
}

function takeValues(text: string, values: readonly unknown[] = []): (string | Buffer | null)[] {
  try {
    const serialised = serialise({ text, values })
    // Bytes are those of the caller still.
    return serialised.values.map((value) => (value instanceof Buffer ? Buffer.from(value) : value))
  } catch (error) {
    throw unsendable(error)
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

/** A value of the caller's that has no form on the wire. */
export function unsendable(cause: unknown): HoldfastError {
  const why = cause instanceof Error ? cause.message : String(cause)
  return new HoldfastError('argument_invalid', `a value cannot be sent: ${why}`, { cause })
}
