import { createHash } from 'node:crypto'
import type { Connection } from '../../src/postgres/connection.ts'
import { present } from '../../src/base/assert.ts'

/**
 * The oracle of the closed timestamp: whoever was shown a closed timestamp was shown everything at or below it.
 *
 * Each reading is one snapshot of a node: its closed timestamp, and what it showed at or below that. At the end,
 * when all that ran is known, every reading must agree with it.
 */
export interface ClosedReading {
  readonly node: string
  readonly closed: bigint
  readonly count: number
  readonly digest: string
}

/** Where the workload records what it stamped. */
export const stampedTable = 'create table public.stamped (stamp bigint primary key)'

export async function readClosed(node: string, connection: Connection): Promise<ClosedReading> {
  const { rows } = await connection.query<{ closed: string; count: number; digest: string }>(`
    select c.closed_timestamp as closed, count(s.stamp)::int as count,
           md5(coalesce(string_agg(s.stamp::text, ',' order by s.stamp), '')) as digest
    from holdfast.closed c left join public.stamped s on s.stamp <= c.closed_timestamp
    group by c.closed_timestamp`)
  const row = present(rows[0], 'a row')
  return { node, closed: BigInt(row.closed), count: row.count, digest: row.digest }
}

export async function readStamps(connection: Connection): Promise<bigint[]> {
  const { rows } = await connection.query<{ stamp: string }>('select stamp from public.stamped order by stamp')
  return rows.map((row) => BigInt(row.stamp))
}

/** Readings that were shown less than what turned out to lie at or below their closed timestamp. */
export function wrongReadings(readings: readonly ClosedReading[], stamps: readonly bigint[]): ClosedReading[] {
  return readings.filter((reading) => {
    const below = stamps.filter((stamp) => stamp <= reading.closed)
    const digest = createHash('md5').update(below.join(',')).digest('hex')
    return reading.count !== below.length || reading.digest !== digest
  })
}
