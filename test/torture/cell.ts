import { systemClock } from '../../src/base/clock.ts'
import type { Gateway } from '../../src/fleet/gateway.ts'
import { eventually } from '../support/eventually.ts'
import type { TestFleet } from '../support/fleet.ts'
import type { Violation } from '../sim/history.ts'
import type { Fault } from './faults.ts'
import type { Sources, Workload } from './workload.ts'

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
  readonly fleet: TestFleet
  readonly gateways: readonly Gateway[]
  readonly name: string
  readonly workload: Workload
  readonly fault: Fault
  readonly sources: Sources
  readonly faultMs: number
  /** No further round after this. */
  readonly roundsForMs: number
}

const clients = 6
const overlapMin = 100
const calmMs = 500

export async function runCell(options: CellOptions): Promise<{ cell: Cell; violations: Violation[] }> {
  const { fleet, gateways, workload, fault, sources } = options
  const [gateway] = gateways
  if (gateway === undefined) throw new Error('a cell needs a gateway')
  await workload.setUp(gateway)
  await settled(fleet)
  const counts = { ok: 0, failed: 0, unknown: 0, overlap: 0 }
  let during = false
  let over = false
  const run = async (client: number) => {
    for (let turn = 0; !over; turn += 1) {
      // Sessions hop between the gateways of all regions.
      const at = gateways[(client + turn) % gateways.length] ?? gateway
      const overlaps = during
      const ended = await workload.operate(client, at)
      counts[ended] += 1
      if (ended === 'ok' && (overlaps || during)) counts.overlap += 1
      if (ended !== 'ok') await systemClock.sleep(20)
    }
  }
  const running = Promise.all(Array.from({ length: clients }, (_, client) => run(client)))
  const scene = { fleet, gateway, below: sources.of('fault') }
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
    } while (counts.overlap < overlapMin && systemClock.monotonicMs() < deadline)
  } finally {
    over = true
    await running
  }
  await settled(fleet)
  const violations = await workload.check(gateway)
  const passed = violations.length === 0 && faultSeen && counts.overlap >= overlapMin
  return { cell: { workload: options.name, fault: fault.name, passed, faultSeen, ...counts }, violations }
}

/** Nothing is prepared on any primary. */
async function settled(fleet: TestFleet): Promise<void> {
  await eventually(async () => (await fleet.prepared().catch(() => ['unreachable'])).length === 0, 60_000)
}
