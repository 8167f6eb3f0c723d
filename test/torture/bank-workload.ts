import { isHoldfastError } from '../../src/base/errors.ts'
import type { Gateway } from '../../src/fleet/gateway.ts'
import type { Violation } from '../sim/history.ts'
import { outcomeOf } from './outcome.ts'
import { domains, tenant } from './stand.ts'
import type { Sources, Workload } from './workload.ts'

/** Money moves between two shards. Every snapshot of both, and the end, has all of it, and no account is below zero. */
const accounts = 5
const openingCents = 100
const totalCents = accounts * openingCents * domains.length

const ways = [
  ['left', 'right'],
  ['right', 'left'],
  ['left', 'left'],
] as const

export function bank(sources: Sources): Workload {
  const violations: Violation[] = []
  const transfers: { readonly id: string; readonly told: 'committed' | 'failed' | 'unknown' }[] = []

  async function look(gateway: Gateway, when: string): Promise<void> {
    const { value } = await gateway.snapshot({ tenant, domains }, (read) =>
      Promise.all(
        domains.map(async (domain) => {
          const { rows } = await read.query<{ cents: string; least: string }>(
            domain,
            `select sum(amount_cents) as cents, min(amount_cents) as least from ${domain}_accounts`,
          )
          return { cents: Number(rows[0]?.cents), least: Number(rows[0]?.least) }
        }),
      ),
    )
    const cents = value.reduce((sum, one) => sum + one.cents, 0)
    if (cents !== totalCents || value.some(({ least }) => least < 0)) {
      const found = value.map((one) => one.cents).join(' + ')
      violations.push({ kind: 'money', explanation: `${when}: ${found} of ${totalCents}`, operations: [] })
    }
  }

  async function move(client: number, gateway: Gateway): Promise<void> {
    const below = sources.of(`client ${client}`)
    // Most go from one shard to the other; some stay at home, and need nobody else.
    const [from, to] = ways[below(ways.length)] ?? ways[0]
    const cents = 1 + below(30)
    const [source, target] = [`account-${below(accounts)}`, `account-${below(accounts)}`]
    const about = { tenant, action: 'torture.transfer', subject: source, actor: `client-${client}` }
    let id = ''
    try {
      const { transactionId } = await gateway.transact(about, async (tx) => {
        id = tx.transactionId
        tx.batch(from, [[add(from), [tenant, source, -cents], { rows: 1 }]])
        tx.batch(to, [[add(to), [tenant, target, cents], { rows: 1 }]])
      })
      transfers.push({ id: transactionId, told: 'committed' })
    } catch (error) {
      if (id !== '') transfers.push({ id, told: outcomeOf(error) })
      throw error
    }
  }

  return {
    setUp: async (gateway) => {
      await gateway.transact({ tenant, action: 'torture.found', subject: 'accounts', actor: 'torture' }, async (tx) => {
        for (const domain of domains) {
          await tx.query(domain, `delete from ${domain}_accounts`)
          await tx.query(
            domain,
            `insert into ${domain}_accounts select $1, 'account-' || n, $2 from generate_series(0, $3::int - 1) n`,
            [tenant, openingCents, accounts],
          )
        }
      })
    },
    operate: async (client, gateway) => {
      try {
        await (sources.of(`client ${client}`)(4) === 0 ? look(gateway, 'during') : move(client, gateway))
        return 'ok'
      } catch (error) {
        return outcomeOf(error)
      }
    },
    check: async (gateway) => {
      await look(gateway, 'at the end')
      for (const { id, told } of transfers) {
        const outcome = await outcomeAsked(gateway, id)
        // What nobody could tell then must have ended one way by now.
        const holds = told === 'unknown' ? outcome !== 'in_doubt' : (told === 'committed') === (outcome === 'committed')
        if (holds) continue
        violations.push({ kind: 'outcome', explanation: `${id} was told ${told} and is ${outcome}`, operations: [] })
      }
      return violations
    },
  }
}

/** A question that is not answered is no answer: only a transaction that left no trace is `none`. */
async function outcomeAsked(gateway: Gateway, id: string): Promise<string> {
  try {
    return (await gateway.transaction(id)).outcome
  } catch (error) {
    if (isHoldfastError(error, 'unknown_transaction')) return 'none'
    throw error
  }
}

const add = (domain: string) =>
  `update ${domain}_accounts set amount_cents = amount_cents + $3 where tenant = $1 and name = $2`
