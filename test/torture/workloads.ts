import { bank } from './bank-workload.ts'
import { listAppend } from './list-append-workload.ts'
import type { Sources, Workload } from './workload.ts'

/** The workloads of a cell on the fleet, by the name that `--workload` takes. */
export const workloads: ReadonlyMap<string, (sources: Sources) => Workload> = new Map([
  ['bank', bank],
  ['list-append', listAppend],
])
