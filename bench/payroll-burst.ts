import { performance } from 'node:perf_hooks'
import { type Fleet, HoldfastError } from 'holdfast'
import { atLeast, atMost, type Figure, median, percentile, round, told } from './figure.ts'
import { tenant } from './stand.ts'
import { Offered } from './traffic.ts'
import { workFor, workTimes } from './windows.ts'
import { addToBalance, insertBalances, insertEntry, pause } from './work.ts'

/**
 * The close of a payroll: commits arrive at four fifths of what the machine can do, whether those before them have ended or
 * not, and each is read back by its own session. What it can do is measured with those reads, since they are a part of the load.
 */

const accounts = 64
const workers = 16
const warmUpTurns = 4_000
const windowMs = 4_000
const windows = 3
const share = 0.8
/** What a read waits for a node when the request does not say. */
const waitMs = 50

/** A read that found no node in time waited without an end. */
export interface Seen {
  readonly byFollower: boolean
  readonly waitedMs: number
}

export async function payrollBurstFigures(
  fleet: Fleet,
  burstMs: number,
  progress: (text: string) => void,
): Promise<Figure[]> {
  await insertBalances(fleet, accounts)
  const turn = (account: number) => readBack(fleet, account)
  progress('capacity for a payroll burst')
  await workTimes(workers, turn, warmUpTurns)
  const capacities: number[] = []
  for (let n = 0; n < windows; n++) capacities.push((await workFor(workers, turn, windowMs)).perSecond)
  const perSecond = share * median(capacities)
  progress(`${Math.round(perSecond)} writes a second for ${burstMs / 1_000} s, each read back`)
  const seen = await offered(turn, perSecond, burstMs)
  return burstFigures(seen, `${seen.length} reads at ${Math.round(perSecond)} writes/s for ${burstMs / 1_000} s`)
}

export function burstFigures(seen: readonly Seen[], of: string): Figure[] {
  const refused = seen.filter(({ waitedMs }) => waitedMs === Number.POSITIVE_INFINITY).length
  const byFollowers = seen.filter(({ byFollower }) => byFollower).length / seen.length
  const waitsMs = seen.map(({ waitedMs }) => waitedMs)
  const name = 'session reads in a payroll burst'
  return [
    atLeast(`${name}: served by followers`, round(byFollowers, 4), `of ${of}`, 0.9),
    atMost(`${name}: p95 wait`, percentile(waitsMs, 0.95), `ms, of ${of}`, 50),
    told(`${name}: refused in their time`, refused, `of ${of}`, 'one that was refused waits without an end'),
  ]
}

async function readBack(fleet: Fleet, account: number): Promise<Seen> {
  const subject = `account-${account % accounts}`
  const values = [tenant, subject]
  const { session } = await fleet.transact({ tenant, action: 'bench.write', subject, actor: 'bench' }, async (tx) => {
    await tx.query('ledger', insertEntry, values)
    await tx.query('ledger', addToBalance, values)
  })
  try {
    const text = 'select amount_cents from balances where tenant = $1 and account = $2'
    const { served } = await fleet.read({ tenant, session, waitMs }, (read) => read.query('ledger', text, values))
    return { byFollower: served[0]?.role === 'follower', waitedMs: served[0]?.waitedMs ?? 0 }
  } catch (error) {
    if (!(error instanceof HoldfastError && (error.code === 'frontier_not_reached' || isQueue(error)))) throw error
    return { byFollower: false, waitedMs: Number.POSITIVE_INFINITY }
  }
}

/** The gateway's connections to every node were in use for as long as the read may wait. */
function isQueue({ code, detail }: HoldfastError): boolean {
  return code === 'node_unavailable' && detail['why'] === 'busy'
}

async function offered<T>(turn: (n: number) => Promise<T>, perSecond: number, forMs: number): Promise<T[]> {
  const underway = new Offered<T>()
  const started = performance.now()
  for (let sinceMs = 0; sinceMs < forMs; sinceMs = performance.now() - started) {
    while (underway.count < (sinceMs * perSecond) / 1_000) underway.add(turn(underway.count))
    await pause(1)
  }
  return underway.ended()
}
