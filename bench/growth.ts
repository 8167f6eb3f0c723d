import type { Fleet } from 'holdfast'
import type pg from 'pg'
import { type Figure, median } from './figure.ts'
import { home, tenant, withStand } from './stand.ts'
import { commitAtHome, timed } from './work.ts'

/** Whether a commit costs more once the commit log is large: the same commit, before and after it grew. */

const rowsBefore = 10_000
const rowsAfter = 10_000_000
const batchRows = 500_000
const commits = 1_500

export function growthFigure(progress: (text: string) => void): Promise<Figure> {
  return withStand(
    async ({ fleet, connect }) => {
      const primary = await connect(home)
      await grow(primary, 0, rowsBefore)
      progress(`commits at ${rowsBefore} rows`)
      const before = await commitMs(fleet)
      for (let rows = rowsBefore; rows < rowsAfter; rows += batchRows) {
        progress(`commit log at ${rows} rows of ${rowsAfter}`)
        await grow(primary, rows, Math.min(batchRows, rowsAfter - rows))
      }
      await primary.query('vacuum analyze holdfast.commit_log')
      await primary.query('checkpoint')
      progress(`commits at ${rowsAfter} rows`)
      const after = await commitMs(fleet)
      const ratio = Number((after / before).toFixed(3))
      const value = Number(after.toFixed(3))
      return {
        name: 'commit cost at 10 million rows in the commit log',
        value,
        unit: 'ms a commit',
        bare: Number(before.toFixed(3)),
        ratio,
        target: 'ratio <= 1.1',
        ok: ratio <= 1.1,
      }
    },
    // One server, and no archive: what is measured is the log's table and its indexes.
    (config) => ({
      ...config,
      regions: { 'eu-west': { jurisdiction: 'EU' }, 'us-east': { jurisdiction: 'US' } },
      shards: Object.fromEntries(
        Object.keys(config.shards).map((shard) => [shard, { durability: 'local', followers: [] }]),
      ),
    }),
  )
}

async function commitMs(fleet: Fleet): Promise<number> {
  const durations: number[] = []
  for (let n = 0; n < commits; n++) durations.push(await timed(() => commitAtHome(fleet, 'account-0')))
  return median(durations.slice(commits / 3))
}

/** Ids in the order of their time, as the product makes them. */
async function grow(primary: pg.Client, from: number, rows: number): Promise<void> {
  await primary.query(
    `insert into holdfast.commit_log (transaction_id, commit_timestamp, xid, tenant, action, subject, actor, placements,
       epoch, participants)
     select (lpad(to_hex(1700000000000 + n), 12, '0') || '7' || substr(md5(n::text), 1, 3) || '8' || substr(md5(n::text), 4, 15))::uuid,
       n, '3'::xid8, $1, 'bench.write', 'account-0', 'bench', '{"ledger": 1}', 1, '{}'
     from generate_series($2::bigint, $2::bigint + $3::bigint - 1) n`,
    [tenant, from, rows],
  )
}
