import type { Gateway } from '../fleet/gateway.ts'
import { formatHlc } from '../hlc/hlc.ts'
import { exactTypes } from '../postgres/exact-types.ts'
import type { Served } from '../reading/served.ts'
import { printLine } from './output.ts'
import { isReading } from './statement-kind.ts'
import { textOf, table } from './table.ts'

export interface SqlOptions {
  readonly tenant: string
  readonly domain: string
  readonly actor: string
  readonly action: string
  readonly subject?: string
  readonly session?: string
}

type Row = Readonly<Record<string, unknown>>

/** `read`: where from. `committed`: as what. Either carries the token to go on with. */
export type StatementDocument = {
  readonly rows: readonly Row[]
  readonly rowCount: number
  readonly session: string
} & (
  | { readonly kind: 'read'; readonly served: readonly Served[] }
  | {
      readonly kind: 'committed'
      readonly transactionId: string
      readonly commitTimestamp: string
      readonly shards: readonly string[]
    }
)

/** One statement: a proven read where it reads, at the primary unless a token says what to show; else a transaction. */
export async function sql(fleet: Gateway, options: SqlOptions, statement: string): Promise<StatementDocument> {
  const { tenant, domain, actor, action, subject = domain, session } = options
  if (isReading(statement)) {
    const level = session === undefined ? 'primary' : 'session'
    const answer = await fleet.read({ tenant, level, session }, (read) =>
      read.client(domain).query<Row>({ text: statement, types: exactTypes }),
    )
    const { rows } = answer.value
    return { kind: 'read', rows, rowCount: rows.length, session: answer.session, served: answer.served }
  }
  const outcome = await fleet.transact({ tenant, action, subject, actor, session }, async (tx) => {
    const { rows, rowCount } = await tx.client(domain).query<Row>({ text: statement, types: exactTypes })
    return { rows, rowCount: rowCount ?? 0 }
  })
  return {
    kind: 'committed',
    ...outcome.value,
    session: outcome.session,
    transactionId: outcome.transactionId,
    commitTimestamp: formatHlc(outcome.commitTimestamp),
    shards: outcome.shards,
  }
}

export function showStatement(document: StatementDocument): void {
  const columns = Object.keys(document.rows[0] ?? {})
  if (columns.length > 0) {
    const rows = document.rows.map((row) => columns.map((column) => textOf(row[column])))
    printLine(table(columns, rows))
  }
  if (document.kind === 'committed') {
    const { rowCount, transactionId, commitTimestamp } = document
    printLine(`${rowCount} rows, committed as ${transactionId} at ${commitTimestamp}`)
  } else printLine(`${document.rowCount} rows, from ${document.served.map(({ node }) => node).join(', ')}`)
}
