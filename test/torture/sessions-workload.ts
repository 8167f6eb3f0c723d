import { isHoldfastError } from '../../src/base/errors.ts'
import type { SessionHistory, SessionLevel, SessionOperation, SessionWrite } from '../sim/session-history.ts'
import type { Client, Query } from './client.ts'
import { NotAcknowledged } from './client.ts'
import { outcomeOf } from './outcome.ts'
import type { Domain } from './stand.ts'
import { domains, tenant } from './stand.ts'
import type { Below, Stage, Workload } from './workload.ts'

/** What a client holds: a token, or those of parallel calls, and what the history calls them. */
interface Token {
  readonly text: string
  readonly number: number
}

/** How many of the reads are of which level: a strong one, or a snapshot, costs as much as ten of a session. */
const shares: Readonly<Record<SessionLevel, number>> = {
  session: 20,
  causal: 4,
  stale: 3,
  primary: 2,
  strong: 1,
  snapshot: 1,
}
const levels = Object.entries(shares).flatMap(([level, share]) =>
  Array<SessionLevel>(share).fill(level as SessionLevel),
)
/** Long enough for followers to prove it most of the time, and shorter than a fault. */
const maxStaleMs = 500
/** All but one of so many reads are of what is near: far ones cost four times as much. */
const nearOf = 2
/** Of the clients, whose registers a read asks for: its own always, so that it can miss something. */
const askedMax = 4
/** A write of an earlier cell may still come. */
const afterEarlier = 1_000

/**
 * Each client writes registers of its own, on one shard or on both at once, and reads those of others, at every level. It
 * hops between gateways with its token; makes two calls at once and goes on with both tokens; and goes on with the token
 * of another client beside its own, as who was sent a link.
 */
export function sessions({ sources, clients }: Pick<Stage, 'sources' | 'clients'>): Workload<SessionHistory> {
  const operations: SessionOperation[] = []
  const tokens = new Map<number, readonly Token[]>()
  const lastValues = new Map<number, number>()
  let numbers = 0
  let moments = 0
  let start = 0

  async function write(client: number, at: Client, where: readonly Domain[], held: readonly Token[]): Promise<Token> {
    // A value is never written twice: an attempt that nobody knows the end of may still come.
    const value = (lastValues.get(client) ?? 0) + 1
    lastValues.set(client, value)
    const registers = where.map((domain) => `${domain}/${client}`)
    const called: SessionWrite = { kind: 'write', client, carried: held.map(({ number }) => number), registers, value }
    operations.push(called)
    const statements = where.map((domain) => ({
      domain,
      text: `insert into ${domain}_registers values ($1, $2, $3)
        on conflict (tenant, register) do update set value = excluded.value
        where ${domain}_registers.value < excluded.value`,
      values: [tenant, client, start + value],
      batch: true as const,
    }))
    const about = { tenant, action: 'torture.write', subject: 'register', actor: `client-${client}` }
    try {
      const done = await at.transact({ ...about, session: textOf(held) }, statements)
      numbers += 1
      moments += 1
      const { commitTimestamp: timestamp } = done
      Object.assign(called, { told: 'committed', given: numbers, timestamp, answeredAt: moments })
      return { text: done.session, number: numbers }
    } catch (error) {
      called.told = error instanceof NotAcknowledged ? error.told : 'unknown'
      throw error
    }
  }

  async function read(client: number, at: Client, level: SessionLevel, held: readonly Token[]): Promise<Token> {
    const below = sources.of(`client ${client}`)
    const asked = [client, ...Array.from({ length: askedMax - 1 }, () => below(clients))]
    const where = level === 'snapshot' ? domains : [below(nearOf) > 0 ? at.near : pick(domains, below)]
    moments += 1
    const calledAt = moments
    const [jumps, wallMs] = [at.clock.jumps(), at.clock.wallMs()]
    const request = { tenant, level, session: textOf(held), ...(level === 'stale' && { maxStaleMs }) }
    const done = await at.read(
      request,
      where.map((domain) => question(domain, asked)),
    )
    const shown = Object.fromEntries(
      where.flatMap((domain, index) => {
        const rows = new Map(done.rows[index]?.map((row) => [Number(row['register']), Number(row['value'])]))
        // What an earlier cell wrote is nothing.
        return asked.map((other) => [`${domain}/${other}`, Math.max(0, (rows.get(other) ?? 0) - start)] as const)
      }),
    )
    numbers += 1
    const { name: gateway } = at
    const isTimed = level === 'stale' && at.clock.jumps() === jumps
    const bound = isTimed && { closedAtLeast: timestampAt(wallMs - maxStaleMs) }
    const carried = held.map(({ number }) => number)
    const { nodes } = done
    operations.push({ kind: 'read', client, carried, given: numbers, level, shown, calledAt, ...bound, gateway, nodes })
    return { text: done.session, number: numbers }
  }

  /** One call, or two at once from the same token, the second at another gateway. */
  async function step(client: number, at: Client, beside: Client): Promise<void> {
    const below = sources.of(`client ${client}`)
    const held = tokens.get(client) ?? []
    const what = below(40)
    const [here, there] = below(2) === 0 ? (['left', 'right'] as const) : (['right', 'left'] as const)
    if (what < 2) tokens.set(client, [await write(client, at, [here], held)])
    else if (what === 2) tokens.set(client, [await write(client, at, [here, there], held)])
    else if (what === 3) {
      const second = below(2) === 0 ? write(client, beside, [there], held) : read(client, beside, 'session', held)
      const both = await Promise.allSettled([write(client, at, [here], held), second])
      const given = both.flatMap((one) => (one.status === 'fulfilled' ? [one.value] : []))
      // Both, or the one that there is: it contains what was held before.
      if (given.length > 0) tokens.set(client, given)
      for (const one of both) if (one.status === 'rejected') throw one.reason
    } else if (what === 4) {
      const theirs = tokens.get(below(clients)) ?? []
      tokens.set(client, [await read(client, at, pick(levels, below), [...held, ...theirs])])
    } else {
      tokens.set(client, [await read(client, at, pick(levels, below), held)])
    }
  }

  return {
    setUp: async (at) => {
      const questions = domains.map((domain) => ({
        domain,
        text: `select coalesce(max(value), 0) as value from ${domain}_registers`,
      }))
      const { rows } = await at.read({ tenant, level: 'strong' }, questions)
      start = afterEarlier + Math.max(...rows.flat().map(({ value }) => Number(value)))
    },
    operate: async (client, at, beside) => {
      try {
        await step(client, at, beside)
        return 'ok'
      } catch (error) {
        const cause = error instanceof Error && error.cause !== undefined ? error.cause : error
        if (isHoldfastError(cause, 'write_lost')) operations.push({ kind: 'told lost', client, why: cause.message })
        if (isHoldfastError(cause, 'write_lost') || isHoldfastError(cause, 'history_changed')) tokens.delete(client)
        return outcomeOf(error)
      }
    },
    end: () => Promise.resolve({ operations }),
  }
}

function question(domain: Domain, asked: readonly number[]): Query {
  return {
    domain,
    text: `select register, value from ${domain}_registers where register = any($1::integer[])`,
    values: [asked],
  }
}

const textOf = (tokens: readonly Token[]) =>
  tokens.length === 0 ? undefined : tokens.map(({ text }) => text).join(', ')

const pick = <T>(list: readonly T[], below: Below): T => {
  const picked = list[below(list.length)]
  if (picked === undefined) throw new Error('a list to pick from has entries')
  return picked
}

/** The first that a clock gives in that millisecond, in text form. */
const timestampAt = (wallMs: number) => `${new Date(wallMs).toISOString()}+0000`
