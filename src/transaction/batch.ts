import { HoldfastError } from '../base/errors.ts'
import type { ShardName } from '../directory/topology.ts'
import type { Statement, StatementOutcome } from '../postgres/statement.ts'

export interface BatchItem {
  readonly statement: Statement
  /** How many rows it must affect; undefined for any number. */
  readonly rows: number | undefined
}

/** A row count that the caller demanded and did not get. */
export function unexpectedRows(
  batch: readonly BatchItem[],
  outcomes: readonly StatementOutcome[],
  shard: ShardName,
): HoldfastError | undefined {
  for (const [index, { rows }] of batch.entries()) {
    const outcome = outcomes[index]
    if (rows === undefined || outcome === undefined || !outcome.ok || outcome.rowCount === rows) continue
    return new HoldfastError(
      'transaction_refused',
      `statement ${index + 1} of the batch on ${shard} affected ${outcome.rowCount} rows, not ${rows}`,
      { detail: { shard, statement: index + 1, rows: outcome.rowCount, expected: rows } },
    )
  }
  return undefined
}
