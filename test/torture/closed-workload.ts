import { createHash } from 'node:crypto'
import type { ClosedHistory, ClosedReading } from '../sim/closed-readings.ts'
import type { Client } from './client.ts'
import { outcomeOf } from './outcome.ts'
import { domains, shardOf, tenant } from './stand.ts'
import type { Stage, Workload } from './workload.ts'

/** Small commits on one shard or both, and beside them readings of every node: its closed timestamp, and what is below. */
const shards = Object.values(shardOf)
/** Commits of earlier cells are left out. */
const commits = `select transaction_id::text as id, commit_timestamp::text as timestamp
  from holdfast.history_of_transactions where commit_timestamp > $1::bigint order by commit_timestamp, transaction_id`
const reading = `
  select c.closed_timestamp::text as closed, count(t.transaction_id)::int as count,
         coalesce(string_agg(t.transaction_id::text, ' ' order by t.commit_timestamp, t.transaction_id), '') as ids,
         (select h.history_id::text from holdfast.history h order by h.epoch desc limit 1) as history
  from holdfast.closed c
  left join holdfast.history_of_transactions t on t.commit_timestamp <= c.closed_timestamp and t.commit_timestamp > $1::bigint
  group by c.closed_timestamp`
const position = `select (case when pg_is_in_recovery() then pg_last_wal_replay_lsn() else pg_current_wal_insert_lsn() end
  - '0/0')::text as position`

export function closed({ sources, fleet }: Pick<Stage, 'sources' | 'fleet'>): Workload<ClosedHistory> {
  const readings: ClosedReading[] = []
  let start = '0'

  async function look(client: number): Promise<void> {
    const below = sources.of(`client ${client}`)
    const shard = shards[below(shards.length)] ?? shardOf.left
    const nodes = fleet.nodesOf(shard)
    const node = nodes[below(nodes.length)] ?? ''
    const [row] = await fleet.askNode<{ closed: string; count: number; ids: string; history: string }>(node, reading, [
      start,
    ])
    const [had] = await fleet.askNode<{ position: string }>(node, position)
    if (had === undefined || row === undefined) throw new Error(`${node} has no closed timestamp`)
    const { ids, ...rest } = row
    readings.push({ shard, node, position: had.position, digest: digestOf(ids), ...rest })
  }

  async function write(client: number, at: Client): Promise<void> {
    const below = sources.of(`client ${client}`)
    const where = [domains, ['left'] as const, ['right'] as const][below(3)] ?? domains
    const about = { tenant, action: 'torture.mark', subject: 'closed', actor: `client-${client}` }
    // A row for each client, so that nobody waits for another.
    const mark = (domain: string) => `insert into ${domain}_registers values ($1, $2, 0)
      on conflict (tenant, register) do update set value = ${domain}_registers.value + 1`
    await at.transact(
      about,
      where.map((domain) => ({ domain, text: mark(domain), values: [tenant, 100 + client], batch: true })),
    )
  }

  return {
    setUp: async () => {
      const [row] = await fleet.ask<{ clock: string }>(
        shardOf.left,
        'select last_value::text as clock from holdfast.hlc',
      )
      const [other] = await fleet.ask<{ clock: string }>(
        shardOf.right,
        'select last_value::text as clock from holdfast.hlc',
      )
      const clocks = [row, other].map((one) => BigInt(one?.clock ?? 0))
      start = String(clocks.reduce((a, b) => (a > b ? a : b)))
    },
    operate: async (client, at) => {
      try {
        await (sources.of(`client ${client}`)(2) === 0 ? look(client) : write(client, at))
        return 'ok'
      } catch (error) {
        return outcomeOf(error)
      }
    },
    end: async () => {
      const last: Record<string, ClosedHistory['last'][string]> = {}
      const forks: Record<string, Record<string, string>> = {}
      for (const shard of shards) {
        const rows = await fleet.ask<{ id: string; timestamp: string }>(shard, commits, [start])
        const digest = createHash('md5')
        last[shard] = rows.map(({ id, timestamp }, at) => {
          digest.update(at === 0 ? id : ` ${id}`)
          return { timestamp, digest: digest.copy().digest('hex') }
        })
        const parents = await fleet.ask<{ parent: string; fork: string }>(
          shard,
          `select parent::text, (fork_lsn - '0/0')::text as fork from holdfast.history where parent is not null`,
        )
        forks[shard] = Object.fromEntries(parents.map(({ parent, fork }) => [parent, fork]))
      }
      return { readings, last, forks }
    },
  }
}

const digestOf = (ids: string) => (ids === '' ? '' : createHash('md5').update(ids).digest('hex'))
