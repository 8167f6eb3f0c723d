import { isHoldfastError } from '../../src/base/errors.ts'
import type { SessionHistory, SessionOperation } from '../sim/session-guarantees.ts'
import type { Client } from './client.ts'
import { outcomeOf } from './outcome.ts'
import { domains, tenant } from './stand.ts'
import type { Stage, Workload } from './workload.ts'

interface Session {
  token: string | undefined
  written: number
  readonly seen: Map<number, number>
}

/** Each client writes a register of its own and reads those of all, with its token, from gateways of all regions in turn. */
export function sessions({ sources, clients }: Pick<Stage, 'sources' | 'clients'>): Workload<SessionHistory> {
  const operations: SessionOperation[] = []
  const all = new Map<number, Session>()
  const sessionOf = (client: number) => {
    const known = all.get(client) ?? { token: undefined, written: 0, seen: new Map() }
    all.set(client, known)
    return known
  }

  async function write(client: number, at: Client): Promise<void> {
    const session = sessionOf(client)
    // A value is never written twice: an attempt that nobody knows the end of may still come.
    session.written += 1
    const value = session.written
    const domain = domainOf(client)
    const text = `insert into ${domain}_registers values ($1, $2, $3, $4)
      on conflict (tenant, register) do update set value = excluded.value, seen = excluded.seen
      where ${domain}_registers.value < excluded.value`
    const about = { tenant, action: 'torture.write', subject: 'register', actor: `client-${client}` }
    const seen = JSON.stringify(Object.fromEntries(session.seen))
    const statement = { domain, text, values: [tenant, client, value, seen] }
    const done = await at.transact({ ...about, session: session.token }, [statement])
    session.token = done.session
    session.seen.set(client, value)
    operations.push({ kind: 'write', client, register: client, value })
  }

  async function read(client: number, at: Client, register: number, level: 'session' | 'causal'): Promise<void> {
    const session = sessionOf(client)
    const domain = domainOf(register)
    const text = `select value, seen from ${domain}_registers where register = $1`
    const done = await at.read({ tenant, level, session: session.token }, [{ domain, text, values: [register] }])
    session.token = done.session
    const [row] = done.rows.flat()
    const value = Number(row?.['value'] ?? 0)
    const carried = (row?.['seen'] ?? {}) as Record<number, number>
    session.seen.set(register, Math.max(value, session.seen.get(register) ?? 0))
    operations.push({ kind: 'read', client, register, value, carried, level, nodes: done.nodes })
  }

  return {
    setUp: async (at) => {
      const about = { tenant, action: 'torture.clear', subject: 'registers', actor: 'torture' }
      await at.transact(
        about,
        domains.map((domain) => ({ domain, text: `delete from ${domain}_registers` })),
      )
    },
    operate: async (client, at) => {
      const below = sources.of(`client ${client}`)
      try {
        if (below(3) === 0) await write(client, at)
        else await read(client, at, below(clients), below(2) === 0 ? 'session' : 'causal')
        return 'ok'
      } catch (error) {
        const cause = error instanceof Error && error.cause !== undefined ? error.cause : error
        if (isHoldfastError(cause, 'write_lost')) {
          operations.push({ kind: 'told lost', client, why: cause.message })
        }
        if (isHoldfastError(cause, 'write_lost') || isHoldfastError(cause, 'history_changed')) {
          operations.push({ kind: 'begin', client })
          const session = sessionOf(client)
          session.token = undefined
          session.seen.clear()
        }
        return outcomeOf(error)
      }
    },
    end: () => Promise.resolve({ operations }),
  }
}

const domainOf = (register: number) => domains[register % domains.length] ?? 'left'
