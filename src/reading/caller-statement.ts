import { HoldfastError } from '../base/errors.ts'
import type { Statement, StatementResult } from '../postgres/statement.ts'
import { guardStatement } from '../transaction/statement-guard.ts'
import type { DomainQuery, QueryResult } from '../transaction/transaction.ts'

/** Statements of the caller: what may be sent, and in what form it and its result travel. */

/** Throws `statement_refused` for what controls the transaction, the role or a reserved setting. */
export function requireAllowed(text: string): void {
  const verdict = guardStatement(text)
  if (!verdict.allowed) throw new HoldfastError('statement_refused', verdict.reason, { hint: verdict.hint })
}

export function readHasEnded(): HoldfastError {
  return new HoldfastError('argument_invalid', 'the read has ended', {
    hint: 'await every statement in the function that the read was given',
  })
}

export function toStatement(query: string | DomainQuery, values: readonly unknown[] | undefined): Statement {
  const { text, values: own, rowMode, types } = typeof query === 'string' ? { text: query } : query
  const bound = values ?? own
  return {
    text,
    ...(bound === undefined ? {} : { values: bound }),
    ...(rowMode === undefined ? {} : { rowMode }),
    ...(types === undefined ? {} : { types }),
  }
}

export function toQueryResult<R>({ rows, rowCount, fields, tag }: StatementResult): QueryResult<R> {
  return { rows: rows as R[], rowCount, fields, command: tag }
}
