import type { Violation } from '../sim/history.ts'
import { judgeSessions } from '../sim/session-guarantees.ts'
import type { SessionHistory } from '../sim/session-history.ts'
import { runCell } from './cell.ts'
import type { Fault } from './fault.ts'
import { faultOf } from './faults.ts'
import { describe, say } from './play.ts'
import { Stand } from './stand.ts'
import { Sources } from './workload.ts'
import { workloadOf } from './workloads.ts'

/** The workload `sessions` under these faults in turn, for as long as it takes to check so many reads, or as it may take. */
const faults = [
  'hold follower back',
  'let follower lag',
  'kill follower',
  'fail over',
  'kill primary',
  'kill gateway',
  'fail over past a late follower',
  'cut link',
] as const
const clients = 32
const faultMs = 3_000
/** Above what one turn can have: it ends by its time. */
const overlapMin = Infinity
/** Each fault has its turn in a run of ten minutes, and again. */
const roundsForMs = 30_000

export interface CheckedReads {
  readonly seed: number
  /** Those of which a checker expected something that a late node would not have shown. */
  readonly checked: number
  readonly violations: readonly Violation[]
  /** Those that were seen to happen, as often as they were played. */
  readonly faults: Readonly<Record<string, number>>
  readonly tookMs: number
}

/** `READS MILLISECONDS [SEED]` */
export async function main([reads, ms, seed]: readonly string[]): Promise<void> {
  const found = await checkReads(Number(reads), Number(ms), seed === undefined ? Date.now() % 2 ** 31 : Number(seed))
  process.stdout.write(JSON.stringify(found))
}

async function checkReads(reads: number, withinMs: number, seed: number): Promise<CheckedReads> {
  const started = Date.now()
  say(`seed ${seed}`)
  // Archives have no part in reads, and cost as much as a gateway.
  const stand = await Stand.open({ archives: false })
  const violations: Violation[] = []
  const seen: Record<string, number> = Object.fromEntries(faults.map((name) => [name, 0]))
  let checked = 0
  try {
    for (let turn = 0; checked < reads && Date.now() - started < withinMs; turn += 1) {
      const name = faults[turn % faults.length] ?? faults[0]
      const fault = counted(faultOf(name), seen)
      const sources = new Sources(`${seed} ${name} ${turn}`)
      const cell = { stand, name: 'sessions', kind: workloadOf('sessions'), fault, sources }
      const played = await runCell({ ...cell, faultMs, roundsForMs, clients, overlapMin })
      const judged = judgeSessions(played.history as SessionHistory)
      checked += judged.reads
      violations.push(...judged.violations)
      const { ok, failed, unknown } = played.cell
      const seconds = Math.round((Date.now() - started) / 1_000)
      say(
        `${seconds} s: ${checked} reads checked, ${violations.length} violations; ${name}: ${ok} ok, ${failed} failed, ${unknown} unknown`,
      )
    }
  } finally {
    await stand.close().catch((error: unknown) => say(`the fleet did not stop in order: ${describe(error)}`))
  }
  return { seed, checked, violations, faults: seen, tookMs: Date.now() - started }
}

/** Counts how often it was seen to happen. */
function counted(fault: Fault, seen: Record<string, number>): Fault {
  return {
    ...fault,
    inject: async (scene) => {
      const happened = await fault.inject(scene)
      if (happened) seen[fault.name] = (seen[fault.name] ?? 0) + 1
      return happened
    },
  }
}
