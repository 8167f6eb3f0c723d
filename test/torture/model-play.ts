import { explore } from '../sim/commit-play.ts'
import { realParts } from '../sim/commit-parts.ts'
import type { Violation } from '../sim/history.ts'
import type { Asked, Play, Report } from './play.ts'
import { say } from './play.ts'

const model = 'model'
/** Between looks at the time and at signals. */
const schedulesAtOnce = 5_000
const tellEvery = 200_000

/** The model of the commit, under a deterministic scheduler. A quarter of the time is its own when there is more to do. */
export const modelPlay: Play = { workloads: [model], faults: [], counts: 'schedules', play }

async function play(asked: Asked, report: Report): Promise<void> {
  const untilMs = asked.workload === model ? asked.untilMs : Date.now() + (asked.untilMs - Date.now()) / 4
  let played = 0
  const found: Violation[] = []
  let seed = ''
  while (found.length === 0 && Date.now() < untilMs && !asked.signal.aborted) {
    const { failed, schedules } = explore(realParts, { seed: asked.seed + played, schedules: schedulesAtOnce })
    played += schedules
    if (played % tellEvery === 0) say(`model: ${played} schedules`)
    if (failed !== undefined) {
      seed = String(failed.seed)
      const explanation = `${failed.violations.join('; ')}: ${failed.trace.join(' | ')}`
      found.push({ kind: model, explanation, operations: [] })
    }
    await new Promise((resolve) => void setImmediate(resolve))
  }
  const failed = found.length
  const counts = { ok: played - failed, failed, unknown: 0, overlap: played }
  report.add({ workload: model, fault: 'all', passed: failed === 0, faultSeen: true, ...counts }, found, seed)
}
