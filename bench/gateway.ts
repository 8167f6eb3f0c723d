import type { Fleet, FleetConfigInput } from 'holdfast'
import { HoldfastError, openFleet } from 'holdfast'

/** A gateway in a process of its own, at the bidding of a bench: it works for one tenant and tells what it took. */

export interface GatewayTask {
  readonly config: FleetConfigInput
  readonly region: string
  readonly tenant: string
}

export type GatewayOrder =
  | { readonly do: 'commit'; readonly atOnce: number; readonly forMs: number }
  | { readonly do: 'open'; readonly transactions: number }

export interface GatewayReport {
  readonly commits: number
  readonly residentBytesMax: number
}

const insert = 'insert into entries (tenant, account, amount_cents) values ($1, $2, 1)'

async function commitOne(fleet: Fleet, tenant: string, account: string): Promise<void> {
  await fleet.transact({ tenant, action: 'bench.write', subject: account, actor: 'bench' }, (tx) =>
    tx.query('ledger', insert, [tenant, account]),
  )
}

async function obey(fleet: Fleet, tenant: string, order: GatewayOrder): Promise<GatewayReport> {
  let commits = 0
  let residentBytesMax = 0
  const sample = () => (residentBytesMax = Math.max(residentBytesMax, process.memoryUsage.rss()))
  const sampling = setInterval(sample, 20)
  /** Who waits too long for a connection is told to try again, and does: it stays open all the while. */
  const commit = async (account: string): Promise<void> => {
    try {
      await commitOne(fleet, tenant, account)
      commits += 1
    } catch (error) {
      if (!(error instanceof HoldfastError && error.retry === 'safe')) throw error
      await commit(account)
    }
  }
  if (order.do === 'open') {
    await Promise.all(Array.from({ length: order.transactions }, (_, n) => commit(`account-${n}`)))
  } else {
    const until = Date.now() + order.forMs
    const worker = async (n: number) => {
      while (Date.now() < until) await commit(`account-${n}`)
    }
    await Promise.all(Array.from({ length: order.atOnce }, (_, n) => worker(n)))
  }
  sample()
  clearInterval(sampling)
  return { commits, residentBytesMax }
}

async function main({ config, region, tenant }: GatewayTask): Promise<void> {
  const fleet = await openFleet({ config, region })
  process.on('message', (order: GatewayOrder) => {
    obey(fleet, tenant, order).then(
      (report) => process.send?.(report),
      (error: unknown) => {
        process.stderr.write(`${String(error)}\n`)
        process.exit(1)
      },
    )
  })
  process.once('disconnect', () => void fleet.close().finally(() => process.exit(0)))
  process.send?.('ready')
}

await main(JSON.parse(process.argv[2] ?? '') as GatewayTask)
