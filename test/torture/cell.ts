import { systemClock } from '../../src/base/clock.ts'
import type { Violation } from '../sim/history.ts'
import { eventually } from '../support/eventually.ts'
import type { TestFleet } from '../support/fleet.ts'
import type { Client } from './client.ts'
import type { Fault } from './fault.ts'
import type { Stand } from './stand.ts'
import type { Kind, Sources, Workload } from './workload.ts'

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
  /** Ends the rounds early; what was played is checked all the same. */
  readonly signal?: AbortSignal
}

export interface Played {
  readonly cell: Cell
  readonly violations: readonly Violation[]
  readonly history: unknown
}

const clientCount = 6
const overlapMin = 100
const calmMs = 500

/** One that could not be played. */
export function unplayed(workload: string, fault: string): Cell {
  return { workload, fault, passed: false, faultSeen: false, ok: 0, failed: 0, unknown: 0, overlap: 0 }
}

export async function runCell(options: CellOptions): Promise<Played> {
  const { stand, kind, fault, sources } = options
  const { fleet, gateway } = stand
  const clients = stand.clients()
  const [first] = clients
  if (first === undefined) throw new Error('a cell needs a client')
  const workload = kind.make({ fleet, gateway, sources })
  await setUp(workload, first)
  await settled(fleet)
  const counts = { ok: 0, failed: 0, unknown: 0, overlap: 0 }
  let during = false
  let over = false
  const run = async (client: number) => {
    for (let turn = 0; !over; turn += 1) {
      // Sessions hop between the gateways of all regions.
      const at: Client = clients[(client + turn) % clients.length] ?? first
      const overlaps = during
      const ended = await workload.operate(client, at)
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
      try {
        faultSeen = (await fault.inject(scene)) && faultSeen
        await systemClock.sleep(options.faultMs)
      } finally {
        await fault.heal(scene)
        during = false
      }
    } while (counts.overlap < overlapMin && systemClock.monotonicMs() < deadline && options.signal?.aborted !== true)
  } finally {
    over = true
    await running
  }
  await settled(fleet)
  const history = await workload.end(first)
  const violations = kind.check(history)
  const passed = violations.length === 0 && faultSeen && counts.overlap >= overlapMin
  return { cell: { workload: options.name, fault: fault.name, passed, faultSeen, ...counts }, violations, history }
}

/** What an earlier fault has left, as a clock that is ahead, may refuse it for a while. */
async function setUp(workload: Workload, at: Client): Promise<void> {
  let refused: unknown
  const attempt = async () => {
    try {
      await workload.setUp(at)
      return true
    } catch (error) {
      refused = error
      return false
    }
  }
  await eventually(attempt, 60_000).catch((error: unknown) => {
    throw new Error('the workload could not be set up', { cause: refused ?? error })
  })
}

/** Nothing is prepared on any primary. */
async function settled(fleet: TestFleet): Promise<void> {
  await eventually(async () => (await fleet.prepared().catch(() => ['unreachable'])).length === 0, 60_000)
}
