import { isHoldfastError } from '../base/errors.ts'
import { listReports } from '../recovery/drill-store.ts'
import { archiveStatus } from './operations/archive-status.ts'
import { rehearse } from './operations/drill.ts'
import type { Supervisor } from './supervisor.ts'

/**
 * Rehearses restores by the schedule of the configuration: a restore that was possible last month says little about today.
 *
 * When one is due is told by what is there, the reports and the first base backups, so that a fleet which is started again
 * rehearses neither anew nor never. Any restore is a rehearsal, also one that somebody asked for. One that leaves no report, as
 * one whose target lies before the first base backup or one that made way, is tried again.
 */
export interface DrillTimes {
  readonly everyMs: number
  /** The last report of any restore; undefined while there is none. */
  readonly lastMs: number | undefined
  /** Since when there is something to restore from; undefined while some shard has nothing. */
  readonly sinceMs: number | undefined
  /** When this process last tried in vain. */
  readonly failedMs: number | undefined
}

const againAfterMsMax = 10 * 60_000

/** At which wall time the next is due; undefined while none can be. */
export function nextDrillMs({ everyMs, lastMs, sinceMs, failedMs }: DrillTimes): number | undefined {
  const from = lastMs ?? sinceMs
  if (from === undefined) return undefined
  const again = failedMs === undefined ? 0 : failedMs + Math.min(everyMs, againAfterMsMax)
  return Math.max(from + everyMs, again)
}

/** A wall clock that is set while it is waited for is seen this soon. */
const lookEveryMs = 10_000

type Seen = Pick<DrillTimes, 'lastMs' | 'sinceMs'>
const nothingYet: Seen = { lastMs: undefined, sinceMs: undefined }

/** Runs until the fleet stops; at once over where no drill is configured. */
export async function keepDrills(supervisor: Supervisor): Promise<void> {
  const { config, clock, closing, progress } = supervisor
  if (config.drills === null) return
  const { everyMs } = config.drills
  let failedMs: number | undefined
  while (!closing.aborted) {
    // An archive that cannot be read now may be later.
    const times = await timesOf(supervisor).catch(() => nothingYet)
    const dueMs = nextDrillMs({ everyMs, failedMs, ...times })
    const leftMs = dueMs === undefined ? lookEveryMs : dueMs - clock.wallMs()
    if (leftMs > 0) {
      await clock.sleep(Math.min(leftMs, lookEveryMs), closing).catch(() => undefined)
      continue
    }
    failedMs = undefined
    try {
      const { id, verdict, target, rtoMs } = await rehearse(supervisor)
      const step = verdict === 'passed' ? 'drill' : 'alarm'
      progress({ step, detail: `drill ${id} ${verdict}, ${target}, in ${rtoMs} ms` })
    } catch (error) {
      failedMs = clock.wallMs()
      if (closing.aborted) return
      const why = error instanceof Error ? error.message : String(error)
      if (isHoldfastError(error, 'drill_gave_way')) progress({ step: 'drill', detail: why })
      else progress({ step: 'alarm', detail: `a drill came to no end: ${why}` })
    }
  }
}

async function timesOf(supervisor: Supervisor): Promise<Seen> {
  const last = (await listReports(supervisor.home.drillsDir)).at(-1)
  if (last !== undefined) return { lastMs: Date.parse(last.takenAt), sinceMs: undefined }
  const firsts = (await archiveStatus(supervisor)).map(({ baseBackups: [first] }) => first?.takenAt)
  const known = firsts.filter((takenAt) => takenAt !== undefined)
  const isWhole = known.length > 0 && known.length === firsts.length
  return { lastMs: undefined, sinceMs: isWhole ? Math.max(...known.map((takenAt) => Date.parse(takenAt))) : undefined }
}
