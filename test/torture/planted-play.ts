import type { Played } from './cell.ts'
import { runCell, unplayed } from './cell.ts'
import { faultOf } from './faults.ts'
import type { Asked, Play, Report } from './play.ts'
import { describe, say } from './play.ts'
import type { Planted } from './planted.ts'
import { plant, planted } from './planted.ts'
import { Stand } from './stand.ts'
import { Sources } from './workload.ts'
import { workloadOf } from './workloads.ts'

const workload = 'planted'
const faultMs = 2_000
const roundsForMs = 30_000
/** Chance decides whether a bug shows; so many cells, each with a seed of its own, it gets. */
const triesMax = 4

/** The planted bugs, each with a fleet of its own: it may leave halves behind. A cell passes when its bug is caught. */
export const plantedPlay: Play = {
  workloads: [workload],
  faults: planted.map(({ bug }) => bug),
  counts: undefined,
  play,
}

async function play(asked: Asked, report: Report): Promise<void> {
  for (const one of planted) {
    if (asked.signal.aborted || (asked.fault !== undefined && asked.fault !== one.bug)) continue
    if (asked.workload === undefined && Date.now() > asked.untilMs) return
    say(`a fleet with a bug: ${one.bug}`)
    const stand = await Stand.open({ outposts: false })
    const seed = String(asked.seed)
    try {
      const caught = await tryToCatch(stand, one, `${asked.seed} ${one.bug}`, asked.signal)
      report.add({ ...caught.cell, workload, fault: one.bug, passed: caught.by.length > 0 }, [], seed)
      say(`     by ${one.workload} / ${one.fault}: ${caught.by[0] ?? 'nothing'}`)
    } catch (error) {
      report.add(unplayed(workload, one.bug), [], seed)
      say(`     it could not be played: ${describe(error)}`)
    } finally {
      await stand.close().catch((error: unknown) => say(`the fleet did not stop in order: ${String(error)}`))
    }
  }
}

/** Plays the cell of a bug until it is caught. `by` has what the checker said of it. */
export async function tryToCatch(
  stand: Stand,
  bug: Planted,
  seed: string,
  signal?: AbortSignal,
): Promise<Pick<Played, 'cell'> & { readonly by: readonly string[] }> {
  const kind = workloadOf(bug.workload)
  const remove = await plant(stand.fleet, bug)
  try {
    for (let attempt = 1; ; attempt += 1) {
      const sources = new Sources(`${seed} ${attempt}`)
      const fault = faultOf(bug.fault)
      const { workload: name } = bug
      const { cell, violations } = await runCell({
        stand,
        name,
        kind,
        fault,
        sources,
        faultMs,
        roundsForMs,
        ...(bug.call && { readBy: bug.call }),
        ...(signal && { signal }),
      })
      const by = violations
        .filter((one) => bug.caughtAs.includes(one.kind))
        .map((one) => `${one.kind}: ${one.explanation}`)
      if (by.length > 0 || attempt === triesMax || signal?.aborted === true) return { cell, by }
    }
  } finally {
    await remove()
  }
}
