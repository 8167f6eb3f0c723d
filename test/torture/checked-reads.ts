import type { Violation } from '../sim/history.ts'
import type { SessionHistory } from '../sim/session-guarantees.ts'
import { runCell } from './cell.ts'
import { faultOf } from './faults.ts'
import { describe, say } from './play.ts'
import { Stand } from './stand.ts'
import { Sources } from './workload.ts'
import { workloadOf } from './workloads.ts'

/** The workload `sessions` under these faults in turn, for as long as it takes to check so many reads, or as it may take. */
const faults = ['hold follower back', 'kill follower', 'fail over'] as const
const clients = 64
const faultMs = 3_000
const overlapMin = 5_000
const roundsForMs = 40_000

export interface CheckedReads {
  readonly checked: number
  readonly violations: readonly Violation[]
  /** Those that were seen to happen, as often as they were played. */
  readonly faults: Readonly<Record<string, number>>
  readonly tookMs: number
}

/** `READS MILLISECONDS` */
export async function main([reads, ms]: readonly string[]): Promise<void> {
  const found = await checkReads(Number(reads), Number(ms))
  process.stdout.write(JSON.stringify(found))
}

async function checkReads(reads: number, withinMs: number): Promise<CheckedReads> {
  const started = Date.now()
  const stand = await Stand.open()
  const violations: Violation[] = []
  const seen: Record<string, number> = Object.fromEntries(faults.map((name) => [name, 0]))
  let checked = 0
  try {
    for (let turn = 0; checked < reads && Date.now() - started < withinMs; turn += 1) {
      const name = faults[turn % faults.length] ?? faults[0]
      const sources = new Sources(`${started} ${name} ${turn}`)
      const cell = { stand, name: 'sessions', kind: workloadOf('sessions'), fault: faultOf(name), sources }
      const played = await runCell({ ...cell, faultMs, roundsForMs, clients, overlapMin })
      const { operations } = played.history as SessionHistory
      checked += operations.filter(({ kind }) => kind === 'read').length
      violations.push(...played.violations)
      if (played.cell.faultSeen) seen[name] = (seen[name] ?? 0) + 1
      say(`${checked} reads checked, ${violations.length} violations, ${name}`)
    }
  } finally {
    await stand.close().catch((error: unknown) => say(`the fleet did not stop in order: ${describe(error)}`))
  }
  return { checked, violations, faults: seen, tookMs: Date.now() - started }
}
