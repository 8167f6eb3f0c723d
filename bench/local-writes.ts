import type { Fleet } from 'holdfast'
import type pg from 'pg'
import { uuidv7 } from 'uuidv7'
import { comparedTo, type Figure, median, percentile, told } from './figure.ts'
import { home, type Stand, tenant } from './stand.ts'
import { type Window, workFor, workTimes } from './windows.ts'
import { addToBalance, insertBalances, insertEntry, named } from './work.ts'

/**
 * What a commit at home costs beside the same statements without Holdfast, and how much of that is owed to the one row that
 * a commit log is made of.
 */

const connections = 16
/** By commits and not by time: a process compiles what it runs often. */
const warmUpCommits = 6_000
const windowMs = 3_000
const rounds = 5

type Commit = (worker: number) => Promise<void>

/** All take turns on one server, so that what else the machine does meets each. */
export async function localWrites(stand: Stand, progress: (text: string) => void, where: string): Promise<Figure[]> {
  const bareClients = await bareTables(stand)
  const writers = {
    bare: bareWriter(bareClients),
    logged: loggedWriter(bareClients),
    held: await holdfastWriter(stand.fleet),
  }
  progress('warm up')
  for (const commit of Object.values(writers)) await workTimes(connections, commit, warmUpCommits)
  const windows: Record<keyof typeof writers, Window>[] = []
  for (let round = 1; round <= rounds; round++) {
    progress(`local writes${where}, round ${round} of ${rounds}`)
    windows.push({
      bare: await workFor(connections, writers.bare, windowMs),
      logged: await workFor(connections, writers.logged, windowMs),
      held: await workFor(connections, writers.held, windowMs),
    })
  }
  const of = (writer: keyof typeof writers, figure: (window: Window) => number) => ({
    value: median(windows.map((window) => figure(window[writer]))),
    bare: median(windows.map(({ bare }) => figure(bare))),
  })
  const perSecond = (window: Window) => window.perSecond
  const p99Ms = ({ durationsMs }: Window) => percentile(durationsMs, 0.99)
  const unit = 'transactions/s'
  const logged = of('logged', perSecond)
  return [
    comparedTo(`local write throughput${where}`, { ...of('held', perSecond), unit }, { atLeast: 0.85 }),
    comparedTo(`local write p99${where}`, { ...of('held', p99Ms), unit: 'ms' }, { atMost: 1.25 }),
    told(
      `throughput without Holdfast, with the row of a commit log${where}`,
      logged.value,
      unit,
      'what no keeper of a commit log in SQL gets past here',
      logged.bare,
    ),
  ]
}

async function holdfastWriter(fleet: Fleet): Promise<Commit> {
  const action = { tenant, action: 'bench.write', actor: 'bench' }
  await insertBalances(fleet, connections)
  return async (worker) => {
    const values = [tenant, `account-${worker}`]
    await fleet.transact({ ...action, subject: `account-${worker}` }, async (tx) => {
      await tx.query('ledger', insertEntry, values)
      await tx.query('ledger', addToBalance, values)
    })
  }
}

/** The same tables without rules, and a log of the same form as Holdfast's, for their owner. */
async function bareTables({ connect }: Stand): Promise<readonly pg.Client[]> {
  const clients = await Promise.all(Array.from({ length: connections }, () => connect(home)))
  await clients[0]?.query(`
    create schema bare;
    create table bare.entries (like public.entries including all);
    create table bare.balances (like public.balances including all);
    create table bare.commit_log (like holdfast.commit_log including all);
    create sequence bare.hlc;
    insert into bare.balances select '${tenant}', 'account-' || n, 0 from generate_series(0, ${connections - 1}) n`)
  await Promise.all(clients.map((client) => client.query('set search_path = bare')))
  return clients
}

/** `begin` travels with the first statement, as it does in Holdfast. */
function bareWriter(clients: readonly pg.Client[]): Commit {
  return async (worker) => {
    const client = await writeBare(clients, worker)
    await client.query(named('commit'))
  }
}

/** The least that keeps a row for each commit: no check and no function, and it travels with the commit. */
function loggedWriter(clients: readonly pg.Client[]): Commit {
  const logCommit = `insert into commit_log (transaction_id, commit_timestamp, xid, tenant, action, subject, actor, placements,
      epoch, participants)
    values ($1, nextval('hlc'), pg_current_xact_id(), $2, 'bench.write', $3, 'bench', '{"ledger": 1}', 1, '{}')
    returning commit_timestamp`
  return async (worker) => {
    const client = await writeBare(clients, worker)
    const values = [uuidv7(), tenant, `account-${worker}`]
    await Promise.all([client.query({ ...named(logCommit), values }), client.query(named('commit'))])
  }
}

async function writeBare(clients: readonly pg.Client[], worker: number): Promise<pg.Client> {
  const client = clients[worker]
  if (client === undefined) throw new Error(`no connection ${worker}`)
  const values = [tenant, `account-${worker}`]
  await Promise.all([client.query(named('begin')), client.query({ ...named(insertEntry), values })])
  await client.query({ ...named(addToBalance), values })
  return client
}
