import type { Fleet } from 'holdfast'
import { faultsOf } from 'holdfast/testing'
import type pg from 'pg'
import { comparedTo, exactly, type Figure, median, told } from './figure.ts'
import { abroad, region, type Stand, tenant } from './stand.ts'
import { type Window, type Work, workFor, workTimes } from './windows.ts'
import { insertBalances, named, pause } from './work.ts'

/** What a session read costs beside the same query in a bare read-only transaction of the follower that serves it. */

const readers = 16
/** By reads and not by time: a process compiles what it runs often. */
const warmUpReads = 8_000
const windowMs = 3_000
const rounds = 5
const countedReads = 20

const query = 'select amount_cents from balances where tenant = $1 and account = $2'

/** All take turns on one server, so that what else the machine does meets each. */
export async function sessionReadFigures(stand: Stand, progress: (text: string) => void): Promise<Figure[]> {
  const held = await heldReader(stand.fleet)
  progress('warm up')
  await workTimes(readers, held.read, warmUpReads)
  const node = held.servedBy()
  const clients = await Promise.all(Array.from({ length: readers }, () => stand.connect(node)))
  const bare = bareReader(clients)
  const proven = provenReader(clients)
  for (const work of [bare, proven]) await workTimes(readers, work, warmUpReads)
  const windows: Record<'bare' | 'proven' | 'held', Window>[] = []
  for (let round = 1; round <= rounds; round++) {
    progress(`session reads of ${node}, round ${round} of ${rounds}`)
    windows.push({
      bare: await workFor(readers, bare, windowMs),
      proven: await workFor(readers, proven, windowMs),
      held: await workFor(readers, held.read, windowMs),
    })
  }
  if (held.servedBy() !== node) throw new Error(`reads of ${node} are served by ${held.servedBy()} by now`)
  const perSecond = (reader: 'bare' | 'proven' | 'held') => median(windows.map((window) => window[reader].perSecond))
  const [value, proof, base] = [perSecond('held'), perSecond('proven'), perSecond('bare')]
  return [
    comparedTo('session read throughput', { value, bare: base, unit: 'reads/s' }, { atLeast: 0.85 }),
    told(
      'read throughput without Holdfast, with the row of a proof',
      proof,
      'reads/s',
      'what the row of a proof costs by itself, as it is today',
      base,
    ),
    await roundTripFigure(stand, progress),
  ]
}

/** Each reader is a session: it carries the token of its last answer. */
async function heldReader(fleet: Fleet): Promise<{ readonly read: Work; readonly servedBy: () => string }> {
  const { session } = await insertBalances(fleet, readers)
  const sessions = Array.from({ length: readers }, () => session)
  let servedBy = ''
  const read = async (worker: number) => {
    const answer = await fleet.read({ tenant, session: sessions[worker] }, (reader) =>
      reader.query('ledger', query, [tenant, `account-${worker}`]),
    )
    sessions[worker] = answer.session
    servedBy = answer.served[0]?.node ?? ''
  }
  return { read, servedBy: () => servedBy }
}

const begin = 'begin isolation level repeatable read, read only'

function bareReader(clients: readonly pg.Client[]): Work {
  return (worker) => {
    const client = clientOf(clients, worker)
    const values = [tenant, `account-${worker}`]
    return Promise.all([
      client.query(named(begin)),
      client.query({ ...named(query), values }),
      client.query(named('commit')),
    ])
  }
}

/** The same with the row of evidence from the same snapshot, all of it. */
function provenReader(clients: readonly pg.Client[]): Work {
  const proof = {
    name: 'proof',
    text: `select e.*, p.placements, holdfast.greatest_shown() as greatest
           from holdfast.evidence e left join holdfast.placements_shown p on p.tenant = $1`,
    values: [tenant],
  }
  return (worker) => {
    const client = clientOf(clients, worker)
    const values = [tenant, `account-${worker}`]
    return Promise.all([
      client.query(named(begin)),
      client.query(proof),
      client.query({ ...named(query), values }),
      client.query(named('commit')),
    ])
  }
}

function clientOf(clients: readonly pg.Client[], worker: number): pg.Client {
  const client = clients[worker]
  if (client === undefined) throw new Error(`no connection ${worker}`)
  return client
}

/**
 * Counted over the link, beside the one of a bare transaction in one flight. Where the end of the transaction is sent behind the
 * answer, nobody waits for it; it is counted all the same.
 */
async function roundTripFigure(
  { fleet, connect }: Pick<Stand, 'fleet' | 'connect'>,
  progress: (text: string) => void,
): Promise<Figure> {
  const text = 'select amount_cents from holds where tenant = $1'
  const client = await connect(abroad)
  const bare = () =>
    Promise.all([
      client.query(named(begin)),
      client.query({ ...named(text), values: [tenant] }),
      client.query(named('commit')),
    ])
  let session: string | undefined
  const held = async () => {
    const answer = await fleet.read({ tenant, session }, (reader) => reader.query('cash', text, [tenant]))
    session = answer.session
  }
  const faults = faultsOf(fleet)
  const tripsOf = async (application: string, read: () => Promise<unknown>) => {
    await faults.resetLinkCounts()
    await read()
    await pause(10)
    const counts = (await faults.linkCounts()).filter((one) => one.kind === 'client' && one.application === application)
    await pause(200)
    return counts.reduce((sum, { roundTrips }) => sum + roundTrips, 0)
  }
  // Connections are opened, and statements prepared, before anything is counted.
  for (let n = 0; n < 3; n++) await Promise.all([bare(), held()])
  await pause(200)
  progress(`round trips of ${countedReads} session reads`)
  const extra: number[] = []
  for (let n = 0; n < countedReads; n++) {
    const trips = await tripsOf(`gateway-${region}`, held)
    extra.push(trips - (await tripsOf('bench', bare)))
  }
  return exactly('extra round trips of a session read', Math.max(...extra), 'round trips', 0)
}
