import { present } from '../base/assert.ts'
import { HoldfastError } from '../base/errors.ts'
import type { ShardName, TenantName } from '../directory/topology.ts'
import type { Row, Statement, StatementResult } from '../postgres/statement.ts'
import { ServerError } from '../postgres/failure.ts'
import { quoteIdentifier, quoteRelation } from '../postgres/identifier.ts'
import type { Invariant, NeededTable, Severity } from './invariant.ts'
import { platformDomain, platformTables } from './invariant.ts'
import type { InvariantRun, InvariantSource, PlaceQuestion } from './invariant-place.ts'
import { planInvariant } from './invariant-place.ts'

/**
 * Runs invariants over one view of several shards.
 *
 * The needed columns of the needed tables are read from each shard in its snapshot and handed to one of them as a parameter, where
 * they stand under the tables' names in front of the query. So the query needs no table, no scratch space and no write: it runs in a
 * read-only transaction, as a role that sees no row by itself.
 */
export interface InvariantView {
  /** Reads in the snapshot of a shard, as one who may read all tenants. Throws `ServerError`. */
  read(shard: ShardName, statement: Statement): Promise<StatementResult>
  /** Runs on a shard, in the same read-only transaction, with the rights of the application role alone. */
  evaluate(shard: ShardName, statement: Statement): Promise<StatementResult>
}

export interface Delivery {
  readonly event_id: string
  readonly transaction_id: string
  readonly tenant: string
  readonly name: string
  readonly state: string
}

export interface InvariantResult {
  readonly name: string
  readonly severity: Severity
  readonly violations: number
  /** The first of them. */
  readonly rows: readonly Row[]
}

/** How many violating rows are shown; all are counted. */
const rowsShownMax = 20
const countColumn = 'holdfast_violations'

export async function checkInvariants(
  invariants: readonly Invariant[],
  question: PlaceQuestion,
  view: InvariantView,
  deliveries: readonly Delivery[],
): Promise<InvariantResult[]> {
  // All that is needed is asked for at once: over a distance each question alone would cost a round trip.
  const prepared = await Promise.all(
    invariants.map((invariant) =>
      Promise.all(planInvariant(invariant, question).map((run) => prepareRun(run, view, deliveries))),
    ),
  )
  const results: InvariantResult[] = []
  for (const [index, invariant] of invariants.entries()) {
    const { name, severity } = invariant
    let violations = 0
    const rows: Row[] = []
    for (const run of present(prepared[index], 'the runs of an invariant')) {
      const found = await runInvariant(invariant, run, view)
      violations += found.violations
      rows.push(...found.rows)
    }
    results.push({ name, severity, violations, rows: rows.slice(0, rowsShownMax) })
  }
  return results
}

/** The shards that the invariants read, for opening a view over them. */
export function shardsOf(invariants: readonly Invariant[], question: PlaceQuestion): ShardName[] {
  const runs = invariants.flatMap((invariant) => planInvariant(invariant, question))
  return [...new Set(runs.flatMap(({ place, sources }) => [place, ...sources.flatMap(({ shard }) => shard ?? [])]))]
}

/** What a run reads, as the tables and parameters of its query. */
interface PreparedRun {
  readonly place: ShardName
  readonly tables: readonly string[]
  readonly values: readonly string[]
}

async function prepareRun(
  { tenants, sources, place }: InvariantRun,
  view: InvariantView,
  deliveries: readonly Delivery[],
): Promise<PreparedRun> {
  const fetched = await Promise.all(
    sources.map((source) =>
      source.shard === null
        ? Promise.resolve(ofDeliveries(source, deliveries, tenants))
        : fetchRows(source, source.shard, tenants, view),
    ),
  )
  const tables = sources.map((source, index) => {
    const { columns } = present(fetched[index], 'the rows of a source')
    const types = columns.map(({ name, type }) => `${quoteIdentifier(name)} ${type}`).join(', ')
    const records = `json_to_recordset($${index + 1}::json) as records(${types})`
    return `${quoteIdentifier(source.table)} as materialized (select * from ${records})`
  })
  return { place, tables, values: fetched.map(({ json }) => json) }
}

async function runInvariant(
  invariant: Invariant,
  { place, tables, values }: PreparedRun,
  view: InvariantView,
): Promise<{ violations: number; rows: Row[] }> {
  const text = `with ${tables.join(',\n')}
    select violation.*, count(*) over () as ${countColumn} from (\n${invariant.query}\n) as violation limit ${rowsShownMax}`
  try {
    const { rows } = await view.evaluate(place, { text, values })
    return {
      violations: Number(rows[0]?.[countColumn] ?? 0),
      rows: rows.map((row) => Object.fromEntries(Object.entries(row).filter(([column]) => column !== countColumn))),
    }
  } catch (error) {
    if (!(error instanceof ServerError)) throw error
    throw new HoldfastError('config_invalid', `invariant ${invariant.name} cannot run: ${error.message}`, {
      hint: 'a query may use the tables and columns that its header needs, and nothing else',
      cause: error,
    })
  }
}

interface Fetched {
  /** An array of objects. It passes through as text, so that no number loses digits. */
  readonly json: string
  readonly columns: readonly { readonly name: string; readonly type: string }[]
}

async function fetchRows(
  source: InvariantSource,
  shard: ShardName,
  tenants: readonly TenantName[],
  view: InvariantView,
): Promise<Fetched> {
  const isPlatform = source.domain === platformDomain
  const relation = quoteRelation(isPlatform ? 'holdfast.commit_log' : `public.${source.table}`)
  const columns = source.columns.map((column) => quoteIdentifier(column)).join(', ')
  const where = source.byTenant ? 'where tenant = any($1)' : ''
  const asked = readFrom(source, view, shard, {
    text: `select coalesce(json_agg(row_to_json(needed)), '[]')::text as json from (select ${columns} from ${relation} ${where}) needed`,
    values: source.byTenant ? [tenants] : [],
  })
  const askedTypes = readFrom(source, view, shard, {
    // A type of the application may be missing where the query runs; its text form is enough to compare.
    text: `select a.attname as name, case when a.atttypid < 16384 then format_type(a.atttypid, null) else 'text' end as type
      from pg_attribute a where a.attrelid = $1::regclass and a.attname = any($2) and a.attnum > 0`,
    values: [relation, source.columns],
  })
  const [{ rows }, types] = await Promise.all([asked, askedTypes])
  return { json: String(rows[0]?.['json']), columns: types.rows.map(toColumn) }
}

async function readFrom(source: NeededTable, view: InvariantView, shard: ShardName, statement: Statement) {
  try {
    return await view.read(shard, statement)
  } catch (error) {
    if (!(error instanceof ServerError)) throw error
    throw new HoldfastError('config_invalid', `cannot read ${source.table} on ${shard}: ${error.message}`, {
      cause: error,
    })
  }
}

function toColumn(row: Row): { name: string; type: string } {
  return { name: String(row['name']), type: String(row['type']) }
}

function ofDeliveries(source: NeededTable, deliveries: readonly Delivery[], tenants: readonly TenantName[]): Fetched {
  const ours = deliveries.filter(({ tenant }) => tenants.some((name) => name === tenant))
  const types: Readonly<Record<string, string>> = platformTables.delivery
  return {
    json: JSON.stringify(ours),
    columns: source.columns.map((name) => ({ name, type: present(types[name], 'a column of the platform') })),
  }
}
