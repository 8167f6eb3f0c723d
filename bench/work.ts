import { performance } from 'node:perf_hooks'
import type { Fleet } from 'holdfast'
import { median } from './figure.ts'
import { abroad, type Stand, tenant } from './stand.ts'

/** What is committed, the same in every bench. */

export const insertEntry = 'insert into entries (tenant, account, amount_cents) values ($1, $2, 1)'
export const addToBalance = 'update balances set amount_cents = amount_cents + 1 where tenant = $1 and account = $2'
export const insertHold = 'insert into holds (tenant, amount_cents) values ($1, 1)'

/** Gives the token of the session. */
export async function commitAtHome(fleet: Fleet, tenant: string, account: string): Promise<string> {
  const { session } = await fleet.transact({ tenant, action: 'bench.write', subject: account, actor: 'bench' }, (tx) =>
    tx.query('ledger', insertEntry, [tenant, account]),
  )
  return session
}

/** `account-0` and so on; those that are there stay. */
export function insertBalances(fleet: Fleet, count: number): Promise<{ readonly session: string }> {
  const text = `insert into balances select $1, 'account-' || n, 0 from generate_series(0, ${count - 1}) n on conflict do nothing`
  return fleet.transact({ tenant, action: 'bench.write', subject: 'accounts', actor: 'bench' }, async (tx) => {
    await tx.query('ledger', text, [tenant])
  })
}

export async function commitOverBoth(fleet: Fleet): Promise<void> {
  await fleet.transact({ tenant, action: 'bench.global', subject: 'account-0', actor: 'bench' }, async (tx) => {
    await tx.query('ledger', insertEntry, [tenant, 'account-0'])
    tx.batch('cash', [[insertHold, [tenant]]])
  })
}

const roundTrips = 40

/** What the link takes: its timers let nothing out too early, and most things a little late. */
export async function roundTripOf({ connect }: Pick<Stand, 'connect'>): Promise<number> {
  const client = await connect(abroad)
  const durationsMs: number[] = []
  for (let n = 0; n < roundTrips; n++) durationsMs.push(await timed(() => client.query(named('select 1'))))
  return median(durationsMs)
}

export async function timed(run: () => Promise<unknown>): Promise<number> {
  const started = performance.now()
  await run()
  return performance.now() - started
}

export const pause = (ms: number) => new Promise<void>((resolve) => void setTimeout(resolve, ms))

/** Prepared once a connection, like the statements of Holdfast. */
export function named(text: string): { readonly name: string; readonly text: string } {
  return { name: text.slice(0, 60), text }
}
