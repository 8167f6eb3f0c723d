import { formatWallMs } from '../../base/clock.ts'
import type { Progress } from '../../base/progress.ts'
import type { DrillReport } from '../../recovery/drill-report.ts'
import { dropEnvironment } from '../../recovery/environment-drop.ts'
import { listEnvironments } from '../../recovery/environment-servers.ts'
import { restore } from '../../recovery/restore.ts'
import { parseTarget } from '../../recovery/target.ts'
import type { Supervisor } from '../supervisor.ts'
import { catchUpArchives } from './archive-catch-up.ts'
import { recoveryContext } from './recovery-context.ts'

/**
 * A restore for the sake of its report: rebuilt from the archives, checked, and removed again whatever the checks say. Takes its
 * turn among restored environments, and keeps nothing of the fleet waiting. Throws what a restore throws.
 *   at  as `restore` takes it; without one what the configuration says, or `end`
 */
export async function runDrill(
  supervisor: Supervisor,
  { at }: { readonly at?: string | undefined },
  progress: Progress,
): Promise<DrillReport> {
  const target = parseTarget({ at: at ?? configuredTarget(supervisor) })
  return supervisor.onEnvironments(async () => {
    await removeDrills(supervisor)
    await catchUpArchives(supervisor, progress)
    try {
      return await restore(await recoveryContext(supervisor, progress), { target, without: [], isDrill: true })
    } finally {
      await removeDrills(supervisor)
    }
  })
}

function configuredTarget({ config: { drills }, clock }: Supervisor): string {
  return drills === null ? 'end' : formatWallMs(clock.wallMs() - drills.targetAgeMs)
}

/** Also what a drill left that was killed. Their reports stay. */
async function removeDrills({ servers, home: { environmentsDir, drillsDir } }: Supervisor): Promise<void> {
  const left = (await listEnvironments({ environmentsDir })).filter(
    ({ isDrill, state }) => isDrill && state !== 'adopted',
  )
  for (const { id } of left) await dropEnvironment({ host: servers, environmentsDir, drillsDir }, id)
}
