import { performance } from 'node:perf_hooks'
import type { Fleet } from 'holdfast'
import { tenant } from './stand.ts'

/** What is committed, the same in every bench. */

export const insertEntry = 'insert into entries (tenant, account, amount_cents) values ($1, $2, 1)'
export const insertHold = 'insert into holds (tenant, amount_cents) values ($1, 1)'

export async function commitAtHome(fleet: Fleet, tenant: string, account: string): Promise<void> {
  await fleet.transact({ tenant, action: 'bench.write', subject: account, actor: 'bench' }, (tx) =>
    tx.query('ledger', insertEntry, [tenant, account]),
  )
}

export async function commitOverBoth(fleet: Fleet): Promise<void> {
  await fleet.transact({ tenant, action: 'bench.global', subject: 'account-0', actor: 'bench' }, async (tx) => {
    await tx.query('ledger', insertEntry, [tenant, 'account-0'])
    tx.batch('cash', [[insertHold, [tenant]]])
  })
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
