import type { Lsn } from '../../src/postgres/lsn.ts'
import type { BankHistory } from '../sim/bank.ts'
import type { Client, Statement } from './client.ts'
import { outcomeOf, Tellings } from './outcome.ts'
import { positionOf, replayOf } from './redo-history.ts'
import type { Domain } from './stand.ts'
import { domains, shardOf, tenant } from './stand.ts'
import type { Stage, Workload } from './workload.ts'

/** Money moves between two shards, and within one. */
const accounts = 5
const openingCents = 100

const ways = [
  ['left', 'right'],
  ['right', 'left'],
  ['left', 'left'],
] as const

export function bank({ sources, fleet }: Pick<Stage, 'sources' | 'fleet'>): Workload<BankHistory> {
  const looks: BankHistory['looks'][number][] = []
  const tellings = new Tellings()
  const begun = new Map<Domain, Lsn>()

  async function look(at: Client, when: string): Promise<void> {
    const { rows } = await at.read(
      { tenant, level: 'snapshot' },
      domains.map((domain) => ({
        domain,
        text: `select sum(amount_cents)::int as cents, min(amount_cents)::int as least from ${domain}_accounts`,
      })),
    )
    const shards = rows.map(([row]) => ({ cents: Number(row?.['cents']), leastCents: Number(row?.['least']) }))
    looks.push({ when, shards })
  }

  async function move(client: number, at: Client): Promise<void> {
    const below = sources.of(`client ${client}`)
    // Most go from one shard to the other; some stay at home, and need nobody else.
    const [from, to] = ways[below(ways.length)] ?? ways[0]
    const cents = 1 + below(30)
    const [source, target] = [`account-${below(accounts)}`, `account-${below(accounts)}`]
    const about = { tenant, action: 'torture.transfer', subject: source, actor: `client-${client}` }
    try {
      const both = [add(from, source, -cents), add(to, target, cents)]
      const { transactionId } = await at.transact(about, below(4) === 0 ? both : homeFirst(both))
      tellings.acknowledged(transactionId)
    } catch (error) {
      tellings.notAcknowledged(error)
      throw error
    }
  }

  return {
    setUp: async (at) => {
      for (const domain of domains) begun.set(domain, await positionOf(fleet, shardOf[domain]))
      const about = { tenant, action: 'torture.found', subject: 'accounts', actor: 'torture' }
      await at.transact(
        about,
        domains.flatMap((domain) => [
          { domain, text: `delete from ${domain}_accounts` },
          {
            domain,
            text: `insert into ${domain}_accounts select $1, 'account-' || n, $2 from generate_series(0, $3::int - 1) n`,
            values: [tenant, openingCents, accounts],
          },
        ]),
      )
    },
    operate: async (client, at) => {
      try {
        await (sources.of(`client ${client}`)(4) === 0 ? look(at, 'during') : move(client, at))
        return 'ok'
      } catch (error) {
        return outcomeOf(error)
      }
    },
    end: async (at) => {
      await look(at, 'at the end')
      const replays = await Promise.all(
        [...begun].map(([domain, since]) => {
          const rows = { table: `${domain}_accounts`, key: 'name', value: 'amount_cents' }
          return replayOf(fleet, shardOf[domain], rows, since)
        }),
      )
      return { totalCents: accounts * openingCents * domains.length, looks, tellings: await tellings.ask(at), replays }
    },
  }
}

/**
 * As one is told to: home's locks are held, in one order, before anybody else is asked for his. Who takes those of both sides
 * at once deadlocks over them now and then, and stands there until it ends by time.
 */
function homeFirst(both: readonly Add[]): Statement[] {
  const inOrder = both.toSorted((a, b) => (placeOf(a) < placeOf(b) ? -1 : 1))
  return inOrder.map(({ batch, ...rest }) => (rest.domain === 'left' ? rest : { ...rest, batch }))
}

const placeOf = ({ domain, values: [, name] }: Add) => `${domain}/${name}`

type Add = Statement & { readonly batch: true; readonly values: readonly [string, string, number] }

function add(domain: Domain, name: string, cents: number): Add {
  const text = `update ${domain}_accounts set amount_cents = amount_cents + $3 where tenant = $1 and name = $2`
  return { domain, text, values: [tenant, name, cents], rows: 1, batch: true }
}
