import type { RegionName } from '../directory/topology.ts'
import type { Row, Statement, StatementOutcome } from '../postgres/statement.ts'
import { accepted } from '../postgres/statement.ts'
import type { NotedDrift } from './drift-journal.ts'

/** The statements of drifts, one name each, and how their answers are read. */

export function noteDrifts(from: RegionName, drifts: readonly NotedDrift[]): Statement {
  return {
    text: `select holdfast.note_drifts($1, $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[])`,
    values: [
      from,
      drifts.map(({ route }) => route),
      drifts.map(({ to }) => to),
      drifts.map(({ reads }) => String(reads)),
      drifts.map(({ firstMs }) => String(Math.floor(firstMs))),
      drifts.map(({ lastMs }) => String(Math.ceil(lastMs))),
    ],
  }
}

/** A route's drifts as its shard has them; times in milliseconds since the Unix epoch. */
export interface KeptDrift {
  readonly route: string
  readonly from: RegionName
  readonly to: RegionName
  readonly reads: number
  readonly firstMs: number
  readonly lastMs: number
}

export const selectDrifts: Statement = {
  text: `select route, from_region as "from", to_region as "to", reads::float8 as reads,
           extract(epoch from first_at)::float8 * 1000 as "firstMs", extract(epoch from last_at)::float8 * 1000 as "lastMs"
         from holdfast.read_drift order by last_at desc, route, from_region, to_region`,
}

export function readDrifts(outcome: StatementOutcome): KeptDrift[] {
  return accepted(outcome).rows as (Row & KeptDrift)[]
}
