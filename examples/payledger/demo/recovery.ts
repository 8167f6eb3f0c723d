import type { CutoverReport, ProgressEvent, RestoreReport } from 'holdfast'
import type { Incident } from './incident.ts'
import type { Stage } from './stage.ts'
import type { Telling } from './story.ts'
import { countOf, listOf, sameMembers, violationsOf } from './words.ts'

/** The target of the day: as it was just before the job's first commit, and all that followed but the job's. */
function withoutTheJob({ commits }: Incident): { before: string; without: readonly string[] } {
  const without = commits.map(({ outcome }) => outcome.transactionId)
  const [before] = without
  if (before === undefined) throw new Error('the job committed nothing')
  return { before, without }
}

const showing =
  (tell: Telling) =>
  ({ step, detail }: ProgressEvent) =>
    tell.progress(`${step} ${detail ?? ''}`)

export async function dryRun({ west }: Stage, incident: Incident, tell: Telling): Promise<void> {
  const { before, without } = withoutTheJob(incident)
  const report = await west.restore({ before, without, dryRun: true, onProgress: showing(tell) })
  const excluded = report.excluded.map(({ name }) => name)
  tell.check('a dry run makes no environment', report.environment === null)
  tell.check('it would leave out the commits of the job and nothing else', sameMembers(excluded, without))
  tell.check('nothing conflicts', report.conflicts.length === 0)
  tell.say(
    `A dry run: to just before ${before}, then everything after it but ${countOf(excluded.length, 'commit')} of the job. No other transaction has to go with them; ${report.review.length === 0 ? 'no later one touched the same keys' : `${countOf(report.review.length, 'later one')} touched the same keys, for review`}.`,
  )
}

export async function restore(
  { west }: Stage,
  incident: Incident,
  tell: Telling,
): Promise<RestoreReport & { environment: string }> {
  const report = await west.restore({ ...withoutTheJob(incident), onProgress: showing(tell) })
  const { environment, replayed, gates, rtoMs, shards, conflicts } = report
  tell.check('every gate is passed', gates.length > 0 && gates.every(({ ok }) => ok))
  tell.check('nothing conflicts', conflicts.length === 0)
  tell.check('every approval after the first commit of the job was replayed', replayed >= incident.approvals.length)
  if (environment === null) throw new Error('the restore made no environment')
  tell.say(
    `Restored into the isolated environment ${environment} in ${rtoMs} ms: ${shards.map(({ shard, stopLsn }) => `${shard} up to ${stopLsn}`).join(', ')}, then ${countOf(replayed, 'commit')} replayed.`,
  )
  tell.say(`Gates: ${gates.map(({ name, durationMs }) => `${name} ${durationMs} ms`).join(', ')}.`)
  return { ...report, environment }
}

export async function checkEnvironment({ west }: Stage, environment: string, tell: Telling): Promise<void> {
  const restored = await violationsOf(west, environment)
  const fleet = await violationsOf(west)
  tell.check('every invariant holds on the environment', restored.results.length > 0 && restored.total === 0)
  tell.check('the fleet itself is still as the job left it', fleet.total > 0)
  tell.say(
    `${countOf(restored.results.length, 'invariant')} on the environment: ${restored.total} violations. The fleet still has ${fleet.total}.`,
  )
}

export async function cutOver(
  { west }: Stage,
  environment: string,
  incident: Incident,
  tell: Telling,
): Promise<CutoverReport> {
  const report = await west.cutover({ environment, onProgress: showing(tell) })
  tell.check('every gate is passed', report.gates.length > 0 && report.gates.every(({ ok }) => ok))
  tell.check('what is left out is the job', sameMembers(report.leftOut, withoutTheJob(incident).without))
  tell.check('no delivered effect lost its cause', report.compensations.length === 0)
  const status = await west.status()
  tell.check('every shard is open', status.ready)
  tell.say(
    `The old epochs are fenced and the environment is the fleet: ${listOf(report.shards.map(({ shard, epoch }) => `${shard} at epoch ${epoch}`))}, each with its followers rebuilt. Left out: ${countOf(report.leftOut.length, 'transaction')}.`,
  )
  return report
}
