import { performance } from 'node:perf_hooks'
import type { Fleet } from 'holdfast'
import { faultsOf } from 'holdfast/testing'
import type pg from 'pg'
import { closingFigures } from './closing.ts'
import { atMost, comparedTo, exactly, type Figure, median, percentile, round, told } from './figure.ts'
import { growingFleetFigures, memoryFigure } from './gateways.ts'
import { growthFigure } from './growth.ts'
import { inDoubtFigure } from './in-doubt.ts'
import {
  abroad,
  home,
  region,
  roundTripMs,
  type Stand,
  survivingRegion,
  survivorMs,
  tenant,
  withStand,
} from './stand.ts'
import { commitOverBoth, insertEntry, insertHold, named, timed } from './work.ts'

/** What a commit costs: at home beside the same statements alone, and over two shards beside textbook two-phase commit. */

const connections = 16
const warmUpMs = 2_000
const windowMs = 3_000
const rounds = 3
const globalCommits = 40

type Commit = (worker: number) => Promise<void>

export async function benchCommit(progress: (text: string) => void): Promise<Figure[]> {
  const beside = await withStand(async (stand) => [
    ...(await localWrites(stand, progress, '')),
    ...(await globalCommitFigures(stand, progress)),
    ...(await closingFigures(stand, progress)),
    await inDoubtFigure(stand, progress),
  ])
  const surviving = await withStand(
    async (stand) => [
      ...(await localWrites(stand, progress, ` with survive: region, ${survivorMs} ms away`)),
      await survivingCommitFigure(stand, progress),
    ],
    survivingRegion,
  )
  return [
    ...beside,
    ...surviving,
    await memoryFigure(progress),
    await growthFigure(progress),
    ...(await growingFleetFigures(progress)),
  ]
}

/** Both sides take turns on one server, so that what else the machine does meets both. */
async function localWrites(stand: Stand, progress: (text: string) => void, where: string): Promise<Figure[]> {
  const held = await holdfastWriter(stand.fleet)
  const bare = await bareWriter(stand)
  progress('warm up')
  await commitFor(held, warmUpMs)
  await commitFor(bare, warmUpMs)
  const windows: { held: Window; bare: Window }[] = []
  for (let round = 1; round <= rounds; round++) {
    progress(`local writes${where}, round ${round} of ${rounds}`)
    windows.push({ bare: await commitFor(bare, windowMs), held: await commitFor(held, windowMs) })
  }
  const of = (figure: (window: Window) => number) => ({
    value: median(windows.map((one) => figure(one.held))),
    bare: median(windows.map((one) => figure(one.bare))),
  })
  const throughput = of(({ perSecond }) => perSecond)
  const p99 = of(({ durationsMs }) => percentile(durationsMs, 0.99))
  return [
    comparedTo(`local write throughput${where}`, { ...throughput, unit: 'transactions/s' }, { atLeast: 0.85 }),
    comparedTo(`local write p99${where}`, { ...p99, unit: 'ms' }, { atMost: 1.25 }),
  ]
}

const addToBalance = 'update balances set amount_cents = amount_cents + 1 where tenant = $1 and account = $2'

async function holdfastWriter(fleet: Fleet): Promise<Commit> {
  const action = { tenant, action: 'bench.write', actor: 'bench' }
  await fleet.transact({ ...action, subject: 'accounts' }, (tx) =>
    tx.query(
      'ledger',
      `insert into balances select $1, 'account-' || n, 0 from generate_series(0, ${connections - 1}) n`,
      [tenant],
    ),
  )
  return async (worker) => {
    const values = [tenant, `account-${worker}`]
    await fleet.transact({ ...action, subject: `account-${worker}` }, async (tx) => {
      await tx.query('ledger', insertEntry, values)
      await tx.query('ledger', addToBalance, values)
    })
  }
}

/** The same tables without rules, as their owner: `begin` travels with the first statement, as it does in Holdfast. */
async function bareWriter({ connect }: Stand): Promise<Commit> {
  const clients = await Promise.all(Array.from({ length: connections }, () => connect(home)))
  const [first] = clients
  await first?.query(`
    create schema bare;
    create table bare.entries (like public.entries including all);
    create table bare.balances (like public.balances including all);
    insert into bare.balances select '${tenant}', 'account-' || n, 0 from generate_series(0, ${connections - 1}) n`)
  await Promise.all(clients.map((client) => client.query('set search_path = bare')))
  return async (worker) => {
    const client = clients[worker]
    if (client === undefined) throw new Error(`no connection ${worker}`)
    const values = [tenant, `account-${worker}`]
    await Promise.all([client.query(named('begin')), client.query({ ...named(insertEntry), values })])
    await client.query({ ...named(addToBalance), values })
    await client.query(named('commit'))
  }
}

interface Window {
  readonly perSecond: number
  readonly durationsMs: readonly number[]
}

async function commitFor(commit: Commit, forMs: number): Promise<Window> {
  const durationsMs: number[] = []
  const started = performance.now()
  const work = async (worker: number) => {
    while (performance.now() - started < forMs) durationsMs.push(await timed(() => commit(worker)))
  }
  await Promise.all(Array.from({ length: connections }, (_, worker) => work(worker)))
  return { perSecond: (durationsMs.length * 1_000) / (performance.now() - started), durationsMs }
}

async function globalCommitFigures(stand: Stand, progress: (text: string) => void): Promise<Figure[]> {
  const { fleet } = stand
  const faults = faultsOf(fleet)
  const commit = () => commitOverBoth(fleet)
  const bare = await twoPhaseCommit(stand)
  // Connections are opened, and statements prepared, before anything is counted.
  for (let n = 0; n < 5; n++) await commit()
  await bare()

  progress(`${globalCommits} global commits`)
  const trips: number[] = []
  const durationsMs: number[] = []
  for (let n = 0; n < globalCommits; n++) {
    await faults.resetLinkCounts()
    durationsMs.push(await timed(commit))
    const counts = await faults.linkCounts()
    const asked = counts.filter(({ kind, application }) => kind === 'client' && application === `gateway-${region}`)
    trips.push(asked.reduce((sum, count) => sum + count.roundTrips, 0))
  }
  const linkMs = await roundTripOf(stand)
  progress('textbook two-phase commit')
  const bareMs: number[] = []
  for (let n = 0; n < globalCommits / 2; n++) bareMs.push(await timed(bare))
  return [
    exactly('global commit round trips', Math.max(...trips), 'round trips', 1),
    atMost(
      `global commit p50 at ${roundTripMs} ms, followers beside their primaries`,
      median(durationsMs),
      'ms',
      round(linkMs + 6),
      median(bareMs),
    ),
    told(`a round trip over the link of ${roundTripMs} ms`, linkMs, 'ms', 'the RTT of the figures of global commits'),
  ]
}

/** What the link takes: its timers let nothing out too early, and most things a little late. */
async function roundTripOf({ connect }: Stand): Promise<number> {
  const client = await connect(abroad)
  const durationsMs: number[] = []
  for (let n = 0; n < globalCommits; n++) durationsMs.push(await timed(() => client.query(named('select 1'))))
  return median(durationsMs)
}

async function survivingCommitFigure(stand: Stand, progress: (text: string) => void): Promise<Figure> {
  const { fleet } = stand
  for (let n = 0; n < 5; n++) await commitOverBoth(fleet)
  progress(`${globalCommits} global commits whose home waits for another region`)
  const durationsMs: number[] = []
  for (let n = 0; n < globalCommits; n++) durationsMs.push(await timed(() => commitOverBoth(fleet)))
  const name = `global commit p50 with survive: region at home, ${survivorMs} ms away`
  const linkMs = await roundTripOf(stand)
  return atMost(name, median(durationsMs), 'ms', round(linkMs + survivorMs + 8))
}

/** Work on both, then the vote of both, then the decision to both; each step in parallel over the shards. */
async function twoPhaseCommit({ connect }: Stand): Promise<() => Promise<void>> {
  const [near, far] = [await connect(home), await connect(abroad)]
  await near.query('set search_path = bare')
  await far.query('create schema bare; create table bare.holds (like public.holds including all)')
  await far.query('set search_path = bare')
  let number = 0
  return async () => {
    const gid = `bench_${number++}`
    const on = (step: (client: pg.Client) => Promise<unknown>) => Promise.all([step(near), step(far)])
    await Promise.all([
      near.query('begin'),
      near.query(insertEntry, [tenant, 'account-0']),
      far.query('begin'),
      far.query(insertHold, [tenant]),
    ])
    await on((client) => client.query(`prepare transaction '${gid}'`))
    await on((client) => client.query(`commit prepared '${gid}'`))
  }
}
