import { systemClock } from '../../src/base/clock.ts'
import type { MicroOperation, Operation } from '../sim/history.ts'
import type { Client, Query } from './client.ts'
import { outcomeOf } from './outcome.ts'
import { type Domain, domains, tenant } from './stand.ts'
import type { Stage, Workload } from './workload.ts'

/** Transactions that append to lists and read them, on either shard or both, each client with its token; and snapshots. */
const keys = 6

interface Wish {
  readonly domain: Domain
  readonly name: string
  /** What to append; undefined to read. */
  readonly value: number | undefined
}

export function listAppend({ sources }: Pick<Stage, 'sources'>): Workload<Operation[]> {
  const history: Operation[] = []
  const sessions = new Map<number, string>()
  let value = 0

  function wishesOf(client: number): Wish[] {
    const below = sources.of(`client ${client}`)
    const wishes = Array.from({ length: 1 + below(3) }, () => {
      const domain = domains[below(2)] ?? 'left'
      const name = `list-${below(keys)}`
      return { domain, name, value: below(2) === 0 ? undefined : (value += 1) }
    })
    // Mostly in one order for everybody. The others deadlock now and then, on one shard or over both.
    return below(4) === 0 ? wishes : wishes.toSorted((a, b) => (keyOf(a) < keyOf(b) ? -1 : 1))
  }

  function record(operation: Omit<Operation, 'index' | 'completedAt'>): void {
    const completedAt = operation.outcome === 'unknown' ? Number.POSITIVE_INFINITY : systemClock.monotonicMs()
    history.push({ ...operation, index: history.length, completedAt })
  }

  async function write(client: number, at: Client): Promise<void> {
    const wishes = wishesOf(client)
    const operation = { client, node: at.name, invokedAt: systemClock.monotonicMs(), level: 'transaction' } as const
    const about = { tenant, action: 'torture.append', subject: 'lists', actor: `client-${client}` }
    try {
      // Who only appends takes no snapshot that a waited lock could make stale, so that it waits and goes on.
      const isolation = wishes.some((wish) => wish.value === undefined) ? 'repeatable read' : 'read committed'
      const request = { ...about, isolation, session: sessions.get(client) } as const
      const done = await at.transact(request, wishes.map(statementOf))
      sessions.set(client, done.session)
      const micro = wishes.map((wish, index) => microOf(wish, listOf(done.rows[index])))
      record({ ...operation, outcome: 'committed', timestamp: done.commitTimestamp, micro })
    } catch (error) {
      const outcome = outcomeOf(error) === 'unknown' ? 'unknown' : 'aborted'
      const micro = wishes.filter((wish) => wish.value !== undefined).map((wish) => microOf(wish, []))
      record({ ...operation, outcome, micro })
      throw error
    }
  }

  async function look(client: number, at: Client): Promise<void> {
    const operation = { client, node: at.name, invokedAt: systemClock.monotonicMs(), level: 'snapshot' } as const
    const { rows, session } = await at.read(
      { tenant, level: 'snapshot', session: sessions.get(client) },
      domains.map(all),
    )
    sessions.set(client, session)
    record({ ...operation, outcome: 'committed', micro: listsOf(rows) })
  }

  return {
    setUp: async (at) => {
      const about = { tenant, action: 'torture.clear', subject: 'lists', actor: 'torture' }
      await at.transact(
        about,
        domains.map((domain) => ({ domain, text: `delete from ${domain}_lists` })),
      )
    },
    operate: async (client, at) => {
      try {
        await (sources.of(`client ${client} looks`)(5) === 0 ? look(client, at) : write(client, at))
        return 'ok'
      } catch (error) {
        return outcomeOf(error)
      }
    },
    end: async (at) => {
      const last = { client: -1, node: at.name, invokedAt: systemClock.monotonicMs(), level: 'snapshot' } as const
      const { rows } = await at.read({ tenant, level: 'snapshot' }, domains.map(all))
      record({ ...last, outcome: 'committed', micro: listsOf(rows) })
      return history
    },
  }
}

const keyOf = ({ domain, name }: Wish) => `${domain}/${name}`

function statementOf({ domain, name, value }: Wish): Query {
  if (value === undefined) {
    return { domain, text: `select items from ${domain}_lists where tenant = $1 and name = $2`, values: [tenant, name] }
  }
  const text = `insert into ${domain}_lists values ($1, $2, array[$3::integer])
    on conflict (tenant, name) do update set items = ${domain}_lists.items || excluded.items`
  return { domain, text, values: [tenant, name, value] }
}

function microOf(wish: Wish, values: readonly number[]): MicroOperation {
  return wish.value === undefined
    ? { kind: 'read', key: keyOf(wish), values }
    : { kind: 'append', key: keyOf(wish), value: wish.value }
}

/** Every list that can be, so that one which is missing counts as read and empty. */
function all(domain: Domain): Query {
  const text = `select '${domain}/list-' || n as key, coalesce(l.items, '{}') as items
    from generate_series(0, $1::int - 1) n left join ${domain}_lists l on l.name = 'list-' || n`
  return { domain, text, values: [keys] }
}

const listOf = (rows: readonly Readonly<Record<string, unknown>>[] | undefined) =>
  (rows?.[0]?.['items'] ?? []) as readonly number[]

function listsOf(rows: readonly (readonly Readonly<Record<string, unknown>>[])[]): MicroOperation[] {
  return rows.flat().map((row) => ({ kind: 'read', key: String(row['key']), values: row['items'] as number[] }))
}
