import { account } from '../../examples/payledger/payledger.ts'
import { systemClock } from '../../src/base/clock.ts'
import type { ClickHistory } from '../sim/clicks.ts'
import type { Client } from './client.ts'
import { NotAcknowledged } from './client.ts'
import { outcomeOf } from './outcome.ts'
import { tenant } from './stand.ts'
import type { Stage, Workload } from './workload.ts'

/**
 * PayLedger's approvals: drafts come in, and for each of them two managers click *Approve*; every click arrives several
 * times, from several clients. The treasury covers all of them.
 */
const runsOpen = 3
/** Everything is paid to one. */
const employee = 'everyone'
const clicks = ['first', 'second'] as const

export function payroll({ sources, gateway }: Pick<Stage, 'sources' | 'gateway'>): Workload<ClickHistory> {
  const arrivals: ClickHistory['arrivals'][number][] = []
  /** The drafts that are known to be there; the last ones are clicked at. */
  const drafts: string[] = []
  let next = 0
  let cell = ''

  async function draft(client: number, at: Client): Promise<void> {
    const run = `${cell}-${(next += 1)}`
    const total = 1_000 + next
    const text = `insert into payroll_runs (tenant, id, status, total_cents) values ($1, $2, 'draft', $3)`
    const item = `insert into payroll_items (tenant, run_id, employee_id, amount_cents, state) values ($1, $2, $3, $4, 'draft')`
    const about = { tenant, action: 'payroll.draft', subject: run, actor: `client-${client}` }
    await at.transact(about, [
      { domain: 'payroll', text, values: [tenant, run, total] },
      { domain: 'payroll', text: item, values: [tenant, run, employee, total] },
    ])
    drafts.push(run)
  }

  async function click(at: Client, run: string, which: string): Promise<void> {
    const key = `${run} ${which}`
    const invokedAt = systemClock.monotonicMs()
    const arrived = (rest: Pick<ClickHistory['arrivals'][number], 'told' | 'transactionId' | 'code'>) =>
      arrivals.push({ run, key, invokedAt, completedAt: systemClock.monotonicMs(), ...rest })
    try {
      const actor = `${which}@globex.example`
      const { transactionId } = await at.approve({ tenant, run, actor, idempotencyKey: key })
      arrived({ told: 'committed', transactionId, code: undefined })
    } catch (error) {
      const code = error instanceof NotAcknowledged ? error.code : undefined
      arrived({ told: outcomeOf(error), transactionId: undefined, code })
      throw error
    }
  }

  return {
    setUp: async (at) => {
      const about = { tenant, action: 'torture.found', subject: 'books', actor: 'torture' }
      const empty = (domain: string, table: string) => ({ domain, text: `delete from ${table}` })
      const { transactionId } = await at.transact(about, [
        ...['journal_entries', 'payroll_items', 'payroll_runs', 'employees'].map((table) => empty('payroll', table)),
        ...['treasury_holds', 'treasury_accounts'].map((table) => empty('treasury', table)),
        {
          domain: 'payroll',
          text: `insert into employees (tenant, id, department, name, iban, salary_cents) values ($1, $2, 'all', $2, 'XX00', 1)`,
          values: [tenant, employee],
        },
        {
          domain: 'treasury',
          text: 'insert into treasury_accounts (tenant, id, balance_cents) values ($1, $2, $3)',
          values: [tenant, account, 1_000_000_000],
        },
      ])
      cell = transactionId
    },
    operate: async (client, at) => {
      const below = sources.of(`client ${client}`)
      const run = drafts.at(-1 - below(runsOpen))
      try {
        if (run === undefined || below(5) === 0) await draft(client, at)
        else await click(at, run, clicks[below(clicks.length)] ?? 'first')
        return 'ok'
      } catch (error) {
        // That somebody else has approved it is an answer.
        if (error instanceof NotAcknowledged && error.code === 'transaction_refused') return 'ok'
        return outcomeOf(error)
      }
    },
    end: async (at) => {
      const text = `select id from payroll_runs where status = 'approved'`
      const { rows } = await at.read({ tenant, level: 'primary' }, [{ domain: 'payroll', text }])
      const invariants = await gateway.invariants()
      return {
        arrivals,
        approved: rows.flat().map((row) => String(row['id'])),
        invariants: invariants.map(({ name, violations }) => ({ name, violations })),
      }
    },
  }
}
