import { checkBank } from '../sim/bank.ts'
import { checkCanaries } from '../sim/canaries.ts'
import { checkClicks } from '../sim/clicks.ts'
import { checkClosed } from '../sim/closed-readings.ts'
import { checkListsOverShards } from '../sim/lists-over-shards.ts'
import { checkSessions } from '../sim/session-guarantees.ts'
import { checkSet } from '../sim/set.ts'
import { bank } from './bank-workload.ts'
import { canary } from './canary-workload.ts'
import { closed } from './closed-workload.ts'
import { listAppend } from './list-append-workload.ts'
import { payroll } from './payroll-workload.ts'
import { sessions } from './sessions-workload.ts'
import { set } from './set-workload.ts'
import type { Kind } from './workload.ts'
import { kindOf } from './workload.ts'

/** The workloads of a cell on the fleet with their checkers, by the name that `--workload` takes. */
export const workloads: ReadonlyMap<string, Kind> = new Map([
  ['bank', kindOf(bank, checkBank)],
  ['list-append', kindOf(listAppend, checkListsOverShards)],
  ['set', kindOf(set, checkSet)],
  ['payroll', kindOf(payroll, checkClicks)],
  ['sessions', kindOf(sessions, checkSessions)],
  ['closed', kindOf(closed, checkClosed)],
  ['canary', kindOf(canary, checkCanaries)],
])

/** Throws when there is none of that name. */
export function workloadOf(name: string): Kind {
  const kind = workloads.get(name)
  if (kind === undefined) throw new Error(`there is no workload ${name}`)
  return kind
}
