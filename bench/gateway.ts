import type { Fleet, FleetConfigInput } from 'holdfast'
import { HoldfastError, openFleet } from 'holdfast'
import pg from 'pg'
import { obeyParent } from './processes.ts'
import { named } from './work.ts'

/**
 * A gateway in a process of its own, at the bidding of a bench: it works for one tenant and tells what it took. Or, in its
 * place, what a program without Holdfast would be: the same insert on connections of its own.
 */

export type GatewayTask =
  | { readonly config: FleetConfigInput; readonly region: string; readonly tenant: string }
  | { readonly bare: pg.ClientConfig; readonly tenant: string }

export type GatewayOrder =
  | { readonly do: 'commit'; readonly atOnce: number; readonly forMs: number }
  | { readonly do: 'open'; readonly transactions: number }

export interface GatewayReport {
  readonly commits: number
  readonly residentBytesMax: number
}

const insert = 'insert into entries (tenant, account, amount_cents) values ($1, $2, 1)'

/** One commit of the worker of that number. */
type Commit = (worker: number) => Promise<void>

function commitsOf(fleet: Fleet, tenant: string): Commit {
  return async (worker) => {
    const subject = `account-${worker}`
    await fleet.transact({ tenant, action: 'bench.write', subject, actor: 'bench' }, (tx) =>
      tx.query('ledger', insert, [tenant, subject]),
    )
  }
}

/** `begin` travels with the statement, as it does in Holdfast. */
function bareCommitsOf(target: pg.ClientConfig, tenant: string): Commit {
  const clients = new Map<number, Promise<pg.Client>>()
  const connect = async () => {
    const client = new pg.Client(target)
    await client.connect()
    return client
  }
  return async (worker) => {
    const connecting = clients.get(worker) ?? connect()
    clients.set(worker, connecting)
    const client = await connecting
    const values = [tenant, `account-${worker}`]
    await Promise.all([client.query(named('begin')), client.query({ ...named(insert), values })])
    await client.query(named('commit'))
  }
}

async function obey(commitOne: Commit, order: GatewayOrder): Promise<GatewayReport> {
  let commits = 0
  let residentBytesMax = 0
  const sample = () => (residentBytesMax = Math.max(residentBytesMax, process.memoryUsage.rss()))
  // Costs what a good part of a commit does.
  const sampling = order.do === 'open' ? setInterval(sample, 20) : undefined
  /** Who waits too long for a connection is told to try again, and does: it stays open all the while. */
  const commit = async (worker: number): Promise<void> => {
    try {
      await commitOne(worker)
      commits += 1
    } catch (error) {
      if (!(error instanceof HoldfastError && error.retry === 'safe')) throw error
      await commit(worker)
    }
  }
  if (order.do === 'open') {
    await Promise.all(Array.from({ length: order.transactions }, (_, n) => commit(n)))
  } else {
    const until = Date.now() + order.forMs
    const worker = async (n: number) => {
      while (Date.now() < until) await commit(n)
    }
    await Promise.all(Array.from({ length: order.atOnce }, (_, n) => worker(n)))
  }
  sample()
  clearInterval(sampling)
  return { commits, residentBytesMax }
}

async function begin(task: GatewayTask): Promise<{ readonly commitOne: Commit; readonly close: () => Promise<void> }> {
  if ('bare' in task) return { commitOne: bareCommitsOf(task.bare, task.tenant), close: () => Promise.resolve() }
  const fleet = await openFleet({ config: task.config, region: task.region })
  return { commitOne: commitsOf(fleet, task.tenant), close: () => fleet.close() }
}

const task = JSON.parse(process.argv[2] ?? '') as GatewayTask
const { commitOne, close } = await begin(task)
obeyParent((given: GatewayOrder) => obey(commitOne, given), close)
