import { HoldfastError } from '../../base/errors.ts'
import type { Progress } from '../../base/progress.ts'
import { describeConflict } from '../../recovery/exclusion.ts'
import type { DrillReport } from '../../recovery/drill-report.ts'
import { excludedOf } from '../../recovery/drill-report.ts'
import { givingWay } from '../../recovery/giving-way.ts'
import type { RecoveryContext } from '../../recovery/recovery.ts'
import { dryRun, restore } from '../../recovery/restore.ts'
import type { RestoreRequest } from '../../recovery/restore-plan.ts'
import { formatTarget, parseTarget, parseTransactionName } from '../../recovery/target.ts'
import { dropEnvironment } from '../../recovery/environment-drop.ts'
import type { DropReport, RestoreReport } from '../operations-api.ts'
import type { Supervisor } from '../supervisor.ts'
import { catchUpArchives } from './archive-catch-up.ts'
import { recoveryContext } from './recovery-context.ts'

export interface RestoreParams {
  readonly before?: string | undefined
  readonly at?: string | undefined
  readonly without?: readonly string[] | undefined
  readonly into?: string | undefined
  readonly dryRun?: boolean | undefined
}

/** Builds an isolated environment, or only says what would be left out. Throws `fleet_not_running` when the fleet stops meanwhile. */
export async function restoreFleet(
  supervisor: Supervisor,
  params: RestoreParams,
  progress: Progress,
): Promise<RestoreReport> {
  if (params.into !== undefined) {
    throw new HoldfastError('argument_invalid', 'an environment of an embedded fleet cannot lie elsewhere', {
      hint: 'leave `into` out: a cutover takes the servers over where they are, beside those of the fleet',
    })
  }
  const request = { target: parseTarget(params), without: (params.without ?? []).map(parseTransactionName) }
  const { closing } = supervisor
  try {
    closing.throwIfAborted()
    await catchUpArchives(supervisor, progress, closing)
    const context = givingWay(await recoveryContext(supervisor, progress), closing)
    return params.dryRun === true ? await showExclusion(context, request) : toReport(await restore(context, request))
  } catch (error) {
    if (!closing.aborted) throw error
    throw new HoldfastError('fleet_not_running', 'the restore ended: the fleet stops', {
      hint: 'start the fleet and restore again',
      cause: error,
    })
  }
}

async function showExclusion(context: RecoveryContext, request: RestoreRequest): Promise<RestoreReport> {
  const exclusion = await dryRun(context, request)
  return {
    environment: null,
    target: formatTarget(request.target),
    shards: [],
    excluded: excludedOf(exclusion),
    replayed: 0,
    review: (exclusion?.review ?? []).map(({ name }) => name),
    conflicts: (exclusion?.dragged ?? []).map(({ name, because }) => `${name}: ${describeConflict(because)}`),
    gates: [],
    rtoMs: 0,
  }
}

/** Asks nothing of the shards: an environment can be dropped while one of them is gone. */
export async function dropRestore(
  { servers, home: { environmentsDir, drillsDir } }: Supervisor,
  { environment }: { readonly environment: string },
): Promise<DropReport> {
  return dropEnvironment({ host: servers, environmentsDir, drillsDir }, environment)
}

function toReport(report: DrillReport): RestoreReport {
  return {
    environment: report.id,
    target: report.target,
    shards: report.shards.map(({ shard, stopLsn, backupId }) => ({ shard, stopLsn, backupId })),
    excluded: report.excluded,
    replayed: report.shards.reduce((sum, { redone }) => sum + redone, 0),
    review: report.review.map(({ name }) => name),
    conflicts: [],
    gates: report.gates,
    rtoMs: report.rtoMs,
  }
}
