import { systemClock } from '../../src/base/clock.ts'
import type { Gateway } from '../../src/fleet/gateway.ts'
import type { MicroOperation, Operation, Violation } from '../sim/history.ts'
import { checkListAppend, forbiddenUnder } from '../sim/list-append.ts'
import { outcomeOf } from './outcome.ts'
import { type Domain, domains, tenant } from './stand.ts'
import type { Sources, Workload } from './workload.ts'

/**
 * Transactions that append to lists and read them, on either shard or both, each client with its token. Within a shard
 * PostgreSQL's repeatable read must hold, in the order of the sessions too; over both, nothing dirty and no cycle of
 * writes and reads of writes.
 */
const keys = 6

export function listAppend(sources: Sources): Workload {
  const history: Operation[] = []
  const sessions = new Map<number, string>()
  let value = 0

  async function operate(client: number, gateway: Gateway) {
    const below = sources.of(`client ${client}`)
    // In one order for everybody: a deadlock over two shards is seen by no server, and ends at a deadline.
    const wishes = Array.from({ length: 1 + below(3) }, () => {
      const domain = domains[below(2)] ?? 'left'
      return { domain, name: `list-${below(keys)}`, isRead: below(2) === 0 }
    }).toSorted((a, b) => (`${a.domain}/${a.name}` < `${b.domain}/${b.name}` ? -1 : 1))
    const micro: MicroOperation[] = []
    const invokedAt = systemClock.monotonicMs()
    const end = (outcome: Operation['outcome']) => {
      const completedAt = outcome === 'unknown' ? Number.POSITIVE_INFINITY : systemClock.monotonicMs()
      history.push({ index: history.length, client, invokedAt, completedAt, outcome, micro: [...micro] })
    }
    try {
      const about = { tenant, action: 'torture.append', subject: 'lists', actor: `client-${client}` }
      const { session } = await gateway.transact(
        { ...about, isolation: 'repeatable read', session: sessions.get(client) },
        async (tx) => {
          micro.length = 0
          for (const { domain, name, isRead } of wishes) {
            const key = `${domain}/${name}`
            if (isRead) {
              const read = await tx.query<{ items: number[] }>(domain, selectList(domain), [tenant, name])
              micro.push({ kind: 'read', key, values: read.rows[0]?.items ?? [] })
            } else {
              value += 1
              micro.push({ kind: 'append', key, value })
              await tx.query(domain, appendTo(domain), [tenant, name, value])
            }
          }
        },
      )
      sessions.set(client, session)
      end('committed')
      return 'ok' as const
    } catch (error) {
      const outcome = outcomeOf(error)
      end(outcome === 'unknown' ? 'unknown' : 'aborted')
      return outcome
    }
  }

  return {
    setUp: async (gateway) => {
      await gateway.transact({ tenant, action: 'torture.clear', subject: 'lists', actor: 'torture' }, async (tx) => {
        for (const domain of domains) await tx.query(domain, `delete from ${domain}_lists`)
      })
    },
    operate,
    check: async (gateway) => {
      const micro: MicroOperation[] = []
      const { value: lists } = await gateway.snapshot({ tenant, domains }, async (read) =>
        Promise.all(
          domains.map(async (domain) => ({
            domain,
            rows: (
              await read.query<{ name: string; items: number[] }>(domain, `select name, items from ${domain}_lists`)
            ).rows,
          })),
        ),
      )
      for (const { domain, rows } of lists) {
        for (const { name, items } of rows) micro.push({ kind: 'read', key: `${domain}/${name}`, values: items })
      }
      const now = systemClock.monotonicMs()
      const last: Operation = {
        index: history.length,
        client: -1,
        invokedAt: now,
        completedAt: now,
        outcome: 'committed',
        micro,
      }
      return judge([...history, last])
    },
  }
}

function judge(history: readonly Operation[]): Violation[] {
  const perShard = domains.flatMap((domain) => {
    const isForbidden = forbiddenUnder('repeatable read')
    return checkListAppend(history.map((operation) => onlyOn(operation, domain))).filter(
      ({ kind }) => isForbidden(kind) && !kind.endsWith('-realtime'),
    )
  })
  const overBoth = checkListAppend(history).filter(
    ({ kind }) => forbiddenUnder('read committed')(kind) && !kind.includes('-'),
  )
  return [...perShard, ...overBoth, ...lost(history)]
}

function onlyOn(operation: Operation, domain: Domain): Operation {
  return { ...operation, micro: operation.micro.filter(({ key }) => key.startsWith(`${domain}/`)) }
}

/** Nothing acknowledged is missing from the last read. */
function lost(history: readonly Operation[]): Violation[] {
  const last = new Set(
    (history.at(-1)?.micro ?? []).flatMap((one) =>
      one.kind === 'read' ? one.values.map((v) => `${one.key} ${v}`) : [],
    ),
  )
  return history.flatMap(({ outcome, micro, index }) =>
    outcome !== 'committed'
      ? []
      : micro.flatMap((one) =>
          one.kind === 'append' && !last.has(`${one.key} ${one.value}`)
            ? [{ kind: 'lost write', explanation: `${one.value} is not in ${one.key} any more`, operations: [index] }]
            : [],
        ),
  )
}

const selectList = (domain: Domain) => `select items from ${domain}_lists where tenant = $1 and name = $2`
const appendTo = (domain: Domain) =>
  `insert into ${domain}_lists values ($1, $2, array[$3::integer])
   on conflict (tenant, name) do update set items = ${domain}_lists.items || excluded.items`
