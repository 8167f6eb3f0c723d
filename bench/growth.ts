import type { Fleet, FleetConfigInput } from 'holdfast'
import type pg from 'pg'
import { comparedTo, type Figure, median } from './figure.ts'
import { region, withStand } from './stand.ts'
import { commitAtHome, timed } from './work.ts'

/**
 * Whether a commit costs more once the commit log is large: the same commit on two shards of one fleet, in turns, one with a
 * small log and one with a large. What else the machine does meets both.
 */

const small = { shard: `${region}/small`, tenant: 'tenant-small', rows: 10_000 }
const large = { shard: `${region}/large`, tenant: 'tenant-large', rows: 10_000_000 }
const batchRows = 500_000
const warmUpTurns = 300
const turns = 2_000

export function growthFigure(progress: (text: string) => void): Promise<Figure> {
  return withStand(async ({ fleet, connect }) => {
    for (const { shard, tenant, rows } of [small, large]) {
      const primary = await connect(shard)
      for (let done = 0; done < rows; done += batchRows) {
        progress(`commit log of ${shard} at ${done} rows of ${rows}`)
        await grow(primary, tenant, done, Math.min(batchRows, rows - done))
      }
      await primary.query('vacuum analyze holdfast.commit_log')
    }
    for (const { shard } of [small, large]) await (await connect(shard)).query('checkpoint')
    progress(`commits at ${small.rows} rows and at ${large.rows} rows`)
    const durationsMs = { small: [] as number[], large: [] as number[] }
    for (let turn = 0; turn < warmUpTurns + turns; turn++) {
      const [ofSmall, ofLarge] = [await commitMs(fleet, small.tenant), await commitMs(fleet, large.tenant)]
      if (turn < warmUpTurns) continue
      durationsMs.small.push(ofSmall)
      durationsMs.large.push(ofLarge)
    }
    const [bare, value] = [median(durationsMs.small), median(durationsMs.large)]
    return comparedTo(
      'commit cost at 10 million rows in the commit log',
      { value, bare, unit: 'ms a commit' },
      { atMost: 1.1 },
    )
  }, onTwoShards)
}

/** One server a shard, and no archive: what is measured is the log's table and its indexes. */
function onTwoShards(config: FleetConfigInput): FleetConfigInput {
  const policy = { authority: [region], replicas: ['EU'], otherwise: 'reject' } as const
  return {
    ...config,
    regions: { 'eu-west': { jurisdiction: 'EU' }, 'us-east': { jurisdiction: 'US' } },
    shards: Object.fromEntries(
      [...Object.keys(config.shards), small.shard, large.shard].map((shard) => [
        shard,
        { durability: 'local', followers: [] },
      ]),
    ),
    tenants: {
      ...config.tenants,
      ...Object.fromEntries([small, large].map(({ shard, tenant }) => [tenant, { home: shard, policy }])),
    },
  }
}

function commitMs(fleet: Fleet, tenant: string): Promise<number> {
  return timed(() => commitAtHome(fleet, tenant, 'account-0'))
}

/** Ids in the order of their time, as the product makes them. */
async function grow(primary: pg.Client, tenant: string, from: number, rows: number): Promise<void> {
  await primary.query(
    `insert into holdfast.commit_log (transaction_id, commit_timestamp, xid, tenant, action, subject, actor, placements,
       epoch, participants)
     select (lpad(to_hex(1700000000000 + n), 12, '0') || '7' || substr(md5(n::text), 1, 3) || '8' || substr(md5(n::text), 4, 15))::uuid,
       n, '3'::xid8, $1, 'bench.write', 'account-0', 'bench', '{"ledger": 1}', 1, '{}'
     from generate_series($2::bigint, $2::bigint + $3::bigint - 1) n`,
    [tenant, from, rows],
  )
}
