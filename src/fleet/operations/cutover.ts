import type { Progress } from '../../base/progress.ts'
import { abandonCutover, cutover } from '../../recovery/cutover.ts'
import type { CutoverReport } from '../operations-api.ts'
import type { Supervisor } from '../supervisor.ts'
import { backUp } from './backup.ts'
import { cutoverFleet } from './cutover-steps.ts'
import { recoveryContext } from './recovery-context.ts'

/**
 * Makes a restored environment the fleet, and backs up what has a new history: until then a restore of it would have to
 * begin before the fork.
 */
export async function cutOver(
  supervisor: Supervisor,
  { environment, acceptLoss = false }: { readonly environment: string; readonly acceptLoss?: boolean | undefined },
  progress: Progress,
): Promise<CutoverReport> {
  const request = { environment, acceptLoss }
  const report = await cutover(await recoveryContext(supervisor, progress), cutoverFleet(supervisor), request)
  const switched = report.shards.filter(({ kind }) => kind === 'switch').map(({ shard }) => shard)
  await backUp(supervisor, switched, progress)
  return {
    environment: report.environment,
    shards: report.shards.map(({ shard, epoch }) => ({
      shard,
      epoch,
      historyId: supervisor.topology.shard(shard).historyId,
    })),
    leftOut: report.leftOut,
    compensations: report.compensations,
    gates: report.gates,
  }
}

/** Gives up a cutover that was broken off before it switched anything, and opens the fleet as it was. */
export async function abandon(
  supervisor: Supervisor,
  { environment }: { readonly environment: string },
  progress: Progress,
): Promise<{ readonly environment: string; readonly abandoned: true }> {
  await abandonCutover(await recoveryContext(supervisor, progress), cutoverFleet(supervisor), environment)
  return { environment, abandoned: true }
}
