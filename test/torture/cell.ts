import { systemClock } from '../../src/base/clock.ts'
import type { Violation } from '../sim/history.ts'
import { thenCleanUp } from '../support/clean-up.ts'
import { eventually } from '../support/eventually.ts'
import type { TestFleet } from '../support/fleet.ts'
import type { Client, ReadAsked } from './client.ts'
import type { Fault } from './fault.ts'
import type { Stand } from './stand.ts'
import type { Kind, Sources } from './workload.ts'

/**
 * One workload under one fault, which is brought about again and again until enough operations succeeded while it lasted,
 * from its beginning to the end of its healing. It passes when that was reached, the fault was seen to happen every time,
 * and the checker finds nothing: a quiet cell shows nothing.
 */
export interface Cell {
  readonly workload: string
  readonly fault: string
  readonly passed: boolean
  readonly faultSeen: boolean
  readonly ok: number
  readonly failed: number
  readonly unknown: number
  /** Successful operations that were under way while the fault lasted. */
  readonly overlap: number
}

export interface CellOptions {
  readonly stand: Stand
  readonly name: string
  readonly kind: Kind
  readonly fault: Fault
  readonly sources: Sources
  readonly faultMs: number
  /** No further round after this. */
  readonly roundsForMs: number
  /** How many operate at once, and how many successful operations the fault has to meet; as every cell has it when left out. */
  readonly clients?: number
  readonly overlapMin?: number
  /** What reads are made with instead, for a bug that is planted. */
  readonly readBy?: (request: ReadAsked) => ReadAsked
  /** Ends the rounds early; what was played is checked all the same. */
  readonly signal?: AbortSignal
}

export interface Played {
  readonly cell: Cell
  readonly violations: readonly Violation[]
  readonly history: unknown
}

const clientsDefault = 6
const overlapMinDefault = 100
const calmMs = 500

/** One that could not be played. */
export function unplayed(workload: string, fault: string): Cell {
  return { workload, fault, passed: false, faultSeen: false, ok: 0, failed: 0, unknown: 0, overlap: 0 }
}

export async function runCell(options: CellOptions): Promise<Played> {
  const { stand, kind, fault, sources, clients: clientCount = clientsDefault, overlapMin = overlapMinDefault } = options
  const { fleet, gateway } = stand
  const { readBy = (request) => request } = options
  const clients = stand
    .clients()
    .map((one): Client => ({ ...one, read: (request, queries) => one.read(readBy(request), queries) }))
  const [first] = clients
  if (first === undefined) throw new Error('a cell needs a client')
  const workload = kind.make({ fleet, gateway, sources, clients: clientCount })
  await patiently('set up', () => workload.setUp(first))
  await settled(fleet)
  const counts = { ok: 0, failed: 0, unknown: 0, overlap: 0 }
  let during = false
  let over = false
  const run = async (client: number) => {
    for (let turn = 0; !over; turn += 1) {
      // Sessions hop between the gateways of all regions.
      const [at = first, beside = first] = [turn, turn + 1].map((hop) => clients[(client + hop) % clients.length])
      const overlaps = during
      const ended = await workload.operate(client, at, beside)
      counts[ended] += 1
      if (ended === 'ok' && (overlaps || during)) counts.overlap += 1
      if (ended !== 'ok') await systemClock.sleep(20)
    }
  }
  const running = Promise.all(Array.from({ length: clientCount }, (_, client) => run(client)))
  const scene = { stand, below: sources.of('fault') }
  const deadline = systemClock.monotonicMs() + options.roundsForMs
  let faultSeen = true
  try {
    do {
      await systemClock.sleep(calmMs)
      during = true
      const strike = async () => {
        faultSeen = (await fault.inject(scene)) && faultSeen
        await systemClock.sleep(options.faultMs)
      }
      await thenCleanUp(strike, () => fault.heal(scene)).finally(() => {
        during = false
      })
    } while (counts.overlap < overlapMin && systemClock.monotonicMs() < deadline && options.signal?.aborted !== true)
  } finally {
    over = true
    await running
  }
  await settled(fleet)
  const history = await patiently('looked at', () => workload.end(first))
  const violations = kind.check(history)
  const passed = violations.length === 0 && faultSeen && counts.overlap >= overlapMin
  return { cell: { workload: options.name, fault: fault.name, passed, faultSeen, ...counts }, violations, history }
}

/** What a fault has left, as a clock that is ahead or servers that are busy with what they missed, may refuse it for a while. */
async function patiently<T>(what: string, attempt: () => Promise<T>): Promise<T> {
  let done: { readonly value: T } | undefined
  let refused: unknown
  const isDone = async () => {
    done = await attempt().then(
      (value) => ({ value }),
      (error: unknown) => void (refused = error),
    )
    return done !== undefined
  }
  await eventually(isDone, 60_000).catch(() => undefined)
  if (done === undefined) throw new Error(`the workload could not be ${what}`, { cause: refused })
  return done.value
}

/** Nothing is prepared on any primary. */
async function settled(fleet: TestFleet): Promise<void> {
  await eventually(async () => (await fleet.prepared().catch(() => ['unreachable'])).length === 0, 60_000)
}
