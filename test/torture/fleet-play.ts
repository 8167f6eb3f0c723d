import type { Gateway } from '../../src/fleet/gateway.ts'
import type { TestFleet } from '../support/fleet.ts'
import type { Cell } from './cell.ts'
import { runCell } from './cell.ts'
import type { Fault } from './faults.ts'
import { faultsOf } from './faults.ts'
import type { Asked, Play, Report } from './play.ts'
import { say } from './play.ts'
import { openStand, regions } from './stand.ts'
import type { Workload } from './workload.ts'
import { Sources } from './workload.ts'
import { workloads } from './workloads.ts'

const faultMs = 3_000
const roundsForMs = 90_000

/** Every workload under every fault, again and again with other seeds while there is time; each pair once at least. */
export const fleetPlay: Play = {
  workloads: [...workloads.keys()],
  faults: faultsOf().map(({ name }) => name),
  counts: 'operations',
  play,
}

async function play(asked: Asked, report: Report): Promise<void> {
  let stand: Stand | undefined
  try {
    for (let round = 0; round === 0 || Date.now() < asked.untilMs; round += 1) {
      for (const [name, make, fault] of pairs(asked)) {
        if (asked.signal.aborted || (round > 0 && Date.now() > asked.untilMs)) return
        const seed = `${asked.seed} ${name} ${fault.name} ${round}`
        try {
          stand ??= await open()
          const sources = new Sources(seed)
          const { cell, violations } = await runCell({
            ...stand,
            name,
            workload: make(sources),
            fault,
            sources,
            faultMs,
            roundsForMs,
          })
          report.add(cell, violations, seed)
        } catch (error) {
          // A cell that could not be played is one that did not pass; the next ones get a fleet of their own.
          report.add(unplayed(name, fault.name), [], seed)
          say(`     it could not be played: ${error instanceof Error ? error.stack : String(error)}`)
          await close(stand)
          stand = undefined
        }
      }
    }
  } finally {
    await close(stand)
  }
}

function* pairs(asked: Asked): Generator<[string, (sources: Sources) => Workload, Fault]> {
  for (const [name, make] of workloads) {
    if (asked.workload !== undefined && asked.workload !== name) continue
    for (const fault of faultsOf()) {
      if (asked.fault === undefined || asked.fault === fault.name) yield [name, make, fault]
    }
  }
}

interface Stand {
  readonly fleet: TestFleet
  readonly gateways: readonly Gateway[]
}

async function open(): Promise<Stand> {
  say('a fleet of two shards in three regions')
  const fleet = await openStand()
  try {
    return { fleet, gateways: await Promise.all(regions.map((region) => fleet.gateway(region))) }
  } catch (error) {
    await fleet.close()
    throw error
  }
}

async function close(stand: Stand | undefined): Promise<void> {
  if (stand === undefined) return
  say('stop')
  await stand.fleet.close().catch((error: unknown) => say(`the fleet did not stop in order: ${String(error)}`))
}

function unplayed(workload: string, fault: string): Cell {
  return { workload, fault, passed: false, faultSeen: false, ok: 0, failed: 0, unknown: 0, overlap: 0 }
}
