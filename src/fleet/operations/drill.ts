import { formatWallMs } from '../../base/clock.ts'
import { HoldfastError } from '../../base/errors.ts'
import type { Progress } from '../../base/progress.ts'
import { silentProgress } from '../../base/progress.ts'
import type { DrillReport } from '../../recovery/drill-report.ts'
import { dropEnvironment } from '../../recovery/environment-drop.ts'
import { listEnvironments } from '../../recovery/environment-servers.ts'
import { givingWay } from '../../recovery/giving-way.ts'
import { restore } from '../../recovery/restore.ts'
import type { RecoveryTarget } from '../../recovery/target.ts'
import { parseTarget } from '../../recovery/target.ts'
import type { Supervisor } from '../supervisor.ts'
import { catchUpArchives } from './archive-catch-up.ts'
import { recoveryContext } from './recovery-context.ts'

/**
 * A restore for the sake of its report: rebuilt from the archives, checked, and removed again whatever the checks say. Takes its
 * turn among restored environments, and keeps nothing of the fleet waiting. Throws what a restore throws, and `drill_gave_way` when
 * the fleet stops.
 *   at  as `restore` takes it; without one what the configuration says, or `end`
 */
export async function runDrill(
  supervisor: Supervisor,
  { at }: { readonly at?: string | undefined },
  progress: Progress,
): Promise<DrillReport> {
  const target = parseTarget({ at: at ?? configuredTarget(supervisor) })
  return supervisor.onEnvironments(() => drill(supervisor, target, progress, supervisor.closing))
}

/** The same as the configuration says. Nobody waits for it, so it makes way to whoever wants its turn as well: `drill_gave_way`. */
export async function rehearse(supervisor: Supervisor): Promise<DrillReport> {
  const target = parseTarget({ at: configuredTarget(supervisor) })
  return supervisor.onEnvironmentsGivingWay((signal) => drill(supervisor, target, silentProgress, signal))
}

async function drill(
  supervisor: Supervisor,
  target: RecoveryTarget,
  progress: Progress,
  signal: AbortSignal,
): Promise<DrillReport> {
  try {
    signal.throwIfAborted()
    await removeDrills(supervisor)
    await catchUpArchives(supervisor, progress, signal)
    const context = givingWay(await recoveryContext(supervisor, progress), signal)
    return await restore(context, { target, without: [], isDrill: true })
  } catch (error) {
    if (!signal.aborted) throw error
    const why = supervisor.closing.aborted ? 'the fleet stops' : 'somebody else wants its turn among environments'
    throw new HoldfastError('drill_gave_way', `the drill made way: ${why}`, { cause: error })
  } finally {
    await removeDrills(supervisor)
  }
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
