import type { ChildProcess } from 'node:child_process'
import type { FleetConfigInput } from 'holdfast'
import { atMost, type Figure, median, percentile, round } from './figure.ts'
import { order, withProcesses } from './processes.ts'
import type { ReaderOrder, ReaderTask, ReadReport } from './reader.ts'
import { abroad, type Stand, tenant } from './stand.ts'
import { keepCommitting, keepWriting, whileWorking } from './traffic.ts'
import { commitAtHome, pause, roundTripOf, timed } from './work.ts'

/**
 * How long a read waits that must show what was committed just before: on a follower of the same shard, and on another
 * shard. Waits are told by the answers. The budget is longer than any of them, so that none goes elsewhere.
 */

const ownReads = 500
const causalReads = 200
const waitMs = 10_000

/** Of the other shard: what makes local traffic there. */
const foreigner = 'initech-us'
const abroadRegion = 'us-east'

export function withForeigner(config: FleetConfigInput): FleetConfigInput {
  const policy = { authority: [abroadRegion], replicas: ['US'], otherwise: 'reject' } as const
  return { ...config, tenants: { ...config.tenants, [foreigner]: { home: abroad, policy } } }
}

export async function readWaitFigures(stand: Stand, progress: (text: string) => void): Promise<Figure[]> {
  const { fleet, config } = stand
  const own = await ownWaits(stand, progress)
  const commitMs: number[] = []
  for (let n = 0; n < 20; n++) commitMs.push(await timed(() => commitAtHome(fleet, tenant, 'account-0')))
  const linkMs = await roundTripOf(stand)
  const task: ReaderTask = { config, region: abroadRegion }
  return withProcesses('./reader.js', [task], async ([reader]) => {
    await orderReader(reader, { do: 'write', tenant: foreigner })
    const local = await whileWorking(
      () => causalWaits(stand, reader, 'local traffic only', progress),
      (isOver) => keepWriting(fleet, tenant, isOver),
    )
    const global = await whileWorking(
      () => causalWaits(stand, reader, '10 global commits a second', progress),
      (isOver) => keepCommitting(fleet, isOver),
    )
    await orderReader(reader, { do: 'rest' })
    const name = 'causal read wait p99 on another shard after a commit'
    return [
      own,
      atMost(`${name}, local traffic only`, percentile(local, 0.99), 'ms', 80),
      atMost(
        `${name}, with 10 global commits a second`,
        percentile(global, 0.99),
        'ms',
        round(linkMs + median(commitMs) + 80),
      ),
    ]
  })
}

export function orderReader<Report>(reader: ChildProcess | undefined, what: ReaderOrder): Promise<Report> {
  return order(reader, what)
}

/** Those that a follower answered; which node is asked first is not what is measured. */
async function ownWaits({ fleet }: Stand, progress: (text: string) => void): Promise<Figure> {
  progress(`${ownReads} reads of followers after a local commit`)
  const waitsMs: number[] = []
  for (let turns = 0; waitsMs.length < ownReads; turns++) {
    if (turns > 4 * ownReads) throw new Error(`of ${turns} reads followers answered only ${waitsMs.length}`)
    const session = await commitAtHome(fleet, tenant, 'account-0')
    const text = 'select count(*) from entries where tenant = $1 and id = 1'
    const { served } = await fleet.read({ tenant, session, waitMs }, (read) => read.query('ledger', text, [tenant]))
    const [by] = served
    if (by?.role === 'follower') waitsMs.push(by.waitedMs)
  }
  const name = 'read-your-writes wait p99 on an idle follower after a local commit'
  return atMost(name, percentile(waitsMs, 0.99), 'ms', 15)
}

/** The token comes to the other region at once, as no client could carry it: the longest that anyone waits. */
async function causalWaits(
  { fleet }: Stand,
  reader: ChildProcess | undefined,
  during: string,
  progress: (text: string) => void,
): Promise<number[]> {
  progress(`${causalReads} causal reads on another shard, ${during}`)
  const waitsMs: number[] = []
  const text = 'select count(*) from holds where tenant = $1 and id = 1'
  for (let n = 0; n < causalReads; n++) {
    const session = await commitAtHome(fleet, tenant, 'account-0')
    const read = { tenant, session, level: 'causal', domain: 'cash', text, waitMs } as const
    const { waitedMs } = await orderReader<ReadReport>(reader, { do: 'read', read })
    waitsMs.push(waitedMs)
    // At any moment of what closes timestamps.
    await pause((n * 7) % 40)
  }
  return waitsMs
}
