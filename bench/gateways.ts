import type { ChildProcess } from 'node:child_process'
import { readdir, readFile } from 'node:fs/promises'
import type { FleetConfigInput } from 'holdfast'
import { atMost, type Figure, round } from './figure.ts'
import type { GatewayOrder, GatewayReport, GatewayTask } from './gateway.ts'
import { order, withProcesses } from './processes.ts'
import { region, tenant, withStand } from './stand.ts'

/** What gateways in processes of their own take: memory when much is open at once, and processor time as a fleet grows. */

const transactions = 1_000
const atOnce = 4
const warmUpMs = 1_000
const warmUpCommits = 2_000
const windowMs = 5_000
/** Of `/proc/<pid>/stat`, as Linux has it on every processor. */
const ticksPerSecond = 100

/** No archive, and one server a shard: what others add is not the gateway's. */
const plain = (config: FleetConfigInput, shards: readonly string[]): FleetConfigInput => ({
  ...config,
  regions: { 'eu-west': { jurisdiction: 'EU' }, 'us-east': { jurisdiction: 'US' } },
  shards: Object.fromEntries(
    [...Object.keys(config.shards), ...shards].map((shard) => [shard, { durability: 'local', followers: [] }]),
  ),
})

export function memoryFigure(progress: (text: string) => void): Promise<Figure> {
  return withStand(
    ({ config }) =>
      withGateways([{ config, region, tenant }], async ([gateway]) => {
        progress(`${transactions} transactions open at once`)
        const peaks: number[] = []
        for (let wave = 0; wave < 3; wave++) {
          const report = await orderGateway(gateway, { do: 'open', transactions })
          peaks.push(report.residentBytesMax)
        }
        const name = `gateway memory at ${transactions.toLocaleString('en')} concurrent transactions`
        return atMost(name, Math.max(...peaks) / 1e6, 'MB', 250)
      }),
    (config) => plain(config, []),
  )
}

/**
 * The same commits, each gateway for a tenant whose home is a shard of its own; and what the same inserts cost without
 * Holdfast when as many programs work on as many servers: processors that are shared by more do more for each commit.
 */
export async function growingFleetFigures(progress: (text: string) => void): Promise<Figure[]> {
  const [one, four] = [await costsOf(1, progress), await costsOf(4, progress)]
  const figure = (name: string, of: (costs: Costs) => number) => {
    const [value, base] = [of(four), of(one)]
    return {
      name,
      value: round(value, 1),
      unit: 'us of CPU a commit',
      bare: round(base, 1),
      ratio: round(value / base, 3),
    }
  }
  const held = figure('commit cost with 4 shards and 4 gateways', ({ held }) => held)
  const bare = figure('the same without Holdfast: 4 programs at 4 servers, beside 1 and 1', ({ bare }) => bare)
  const limit = round(1.15 * bare.ratio, 3)
  return [
    { ...held, target: `ratio <= ${limit}: 1.15 times what the machine adds by itself`, ok: held.ratio <= limit },
    { ...bare, target: 'no target: what the machine adds by itself', ok: true },
  ]
}

/** Microseconds of processor time a commit. */
interface Costs {
  readonly held: number
  readonly bare: number
}

function costsOf(count: number, progress: (text: string) => void): Promise<Costs> {
  const names = Array.from({ length: count }, (_, n) => ({ shard: `${region}/ledger-${n}`, tenant: `tenant-${n}` }))
  return withStand(
    async ({ config, connect, targetOf }) => {
      const bare = await Promise.all(
        names.map(async ({ shard, tenant: of }) => {
          const admin = await connect(shard)
          await admin.query('create schema bare; create table bare.entries (like public.entries including all)')
          return { bare: { ...(await targetOf(shard)), options: '-c search_path=bare' }, tenant: of }
        }),
      )
      const held = names.map(({ tenant: of }) => ({ config, region, tenant: of }))
      progress(`commits of ${count} programs at ${count} servers, without Holdfast`)
      const bareCost = await withGateways(bare, costOfCommits)
      progress(`commits of ${count} gateways on ${count} shards`)
      return { bare: bareCost, held: await withGateways(held, costOfCommits) }
    },
    (config) => ({
      ...plain(
        config,
        names.map(({ shard }) => shard),
      ),
      tenants: {
        ...config.tenants,
        ...Object.fromEntries(
          names.map(({ shard, tenant: of }) => [
            of,
            { home: shard, policy: { authority: [region], replicas: ['EU'], otherwise: 'reject' } },
          ]),
        ),
      },
    }),
  )
}

async function costOfCommits(gateways: readonly ChildProcess[]): Promise<number> {
  const commit = (forMs: number) =>
    Promise.all(gateways.map((gateway) => orderGateway(gateway, { do: 'commit', atOnce, forMs })))
  // By commits and not by time: a process compiles what it runs often, and of four each runs it a quarter as often.
  const warm = gateways.map(() => 0)
  while (Math.min(...warm) < warmUpCommits) {
    for (const [n, { commits }] of (await commit(warmUpMs)).entries()) warm[n] = (warm[n] ?? 0) + commits
  }
  const pids = gateways.map(({ pid }) => pid)
  const before = await cpuTicks(pids)
  const reports = await commit(windowMs)
  const ticks = (await cpuTicks(pids)) - before
  const commits = reports.reduce((sum, report) => sum + report.commits, 0)
  return (ticks * 1e6) / ticksPerSecond / commits
}

function withGateways<T>(
  tasks: readonly GatewayTask[],
  use: (gateways: readonly ChildProcess[]) => Promise<T>,
): Promise<T> {
  return withProcesses('./gateway.js', tasks, use)
}

function orderGateway(gateway: ChildProcess | undefined, what: GatewayOrder): Promise<GatewayReport> {
  return order(gateway, what)
}

/** Of the gateways, and of every server: what runs below this process, and what has ended there. */
async function cpuTicks(gateways: readonly (number | undefined)[]): Promise<number> {
  const processes = await Promise.all(
    (await readdir('/proc')).filter((name) => /^\d+$/.test(name)).map((pid) => readStat(Number(pid))),
  )
  const known = processes.filter((one) => one !== undefined)
  const mine = new Set<number>([process.pid])
  for (let size = 0; size < mine.size; ) {
    size = mine.size
    for (const { pid, parent } of known) if (mine.has(parent)) mine.add(pid)
  }
  // This process is the supervisor, and a gateway without work.
  return known.reduce((sum, { pid, own, ended }) => {
    if (!mine.has(pid) || pid === process.pid) return sum
    return sum + own + (gateways.includes(pid) ? 0 : ended)
  }, 0)
}

async function readStat(pid: number) {
  const text = await readFile(`/proc/${pid}/stat`, 'utf8').catch(() => undefined)
  if (text === undefined) return undefined
  const fields = text.slice(text.lastIndexOf(')') + 2).split(' ')
  const at = (index: number) => Number(fields[index])
  return { pid, parent: at(1), own: at(11) + at(12), ended: at(13) + at(14) }
}
