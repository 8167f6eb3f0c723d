import type { InvariantResult, TransactOutcome } from 'holdfast'
import { cleanUp, cleanUpActor } from '../clean-up.ts'
import type { PlannedRun } from '../payledger.ts'
import { april } from '../seed.ts'
import { draftAndApprove } from './approval.ts'
import type { ApprovedRun } from './morning.ts'
import type { Stage } from './stage.ts'
import type { Telling } from './story.ts'
import { countOf, listOf, sameMembers, violationsOf } from './words.ts'

export interface CleanUpCommit {
  readonly runs: readonly string[]
  readonly outcome: TransactOutcome<null>
}

export interface Incident {
  readonly commits: readonly CleanUpCommit[]
  /** Approvals between two commits of the job, and after the last one. */
  readonly approvals: readonly ApprovedRun[]
}

const commitsMax = 3
const holdsPerCommit = 2

/** Whose holds the job takes for leftovers: the run of the story, and five of March. */
const stale = [april.run, ...['engineering', 'hq', 'logistics', 'sales', 'support'].map((name) => `mar-2026-${name}`)]

/** 10:14. The job deletes active holds in small commits; people go on approving in between. */
export async function cleanUpGoesWrong(
  stage: Stage,
  meanwhile: readonly (readonly PlannedRun[])[],
  tell: Telling,
): Promise<Incident> {
  const commits: CleanUpCommit[] = []
  const approvals: ApprovedRun[] = []
  const job = cleanUp(stage.west, { tenant: april.tenant, holdsPerCommit, commitsMax, runs: stale })
  for await (const commit of job) {
    for (const planned of meanwhile[commits.length] ?? []) approvals.push(await draftAndApprove(stage, planned))
    commits.push(commit)
    tell.progress(`${commit.runs.join(', ')} deleted`)
  }
  const deleted = commits.flatMap(({ runs }) => runs)
  const stamps = approvals.map(({ approval }) => approval.commitTimestamp)
  const first = commits[0]?.outcome.commitTimestamp ?? 0n
  const last = commits.at(-1)?.outcome.commitTimestamp ?? 0n
  tell.check('the job committed at least three times', commits.length >= 3)
  tell.check(
    'approvals lie between its commits',
    stamps.some((stamp) => stamp > first && stamp < last),
  )
  tell.say(
    `${cleanUpActor} takes active holds for leftovers and deletes ${deleted.length} of them in ${countOf(commits.length, 'commit')}: ${listOf(deleted)}. Between them and after the last, ${countOf(approvals.length, 'valid approval')} land.`,
  )
  return { commits, approvals }
}

/** Detection by what must hold; the culprits by what the history says. */
export async function detect({ west }: Stage, incident: Incident, tell: Telling): Promise<readonly InvariantResult[]> {
  const { commits } = incident
  const violations = await violationsOf(west)
  const broken = violations.broken.find(({ name }) => name === 'approved-run-has-one-hold')
  const named = (broken?.rows ?? []).map((row) => String(row['run_id']))
  const deleted = commits.flatMap(({ runs }) => runs)
  tell.check('an invariant names exactly the runs whose holds are gone', sameMembers(named, deleted))
  tell.say(
    `${listOf(violations.broken.map(({ name, violations: rows }) => `${name} (${rows})`))} of ${violations.names.length} invariants are violated. The runs without their hold: ${listOf(named)}.`,
  )

  const suspects: string[] = []
  for await (const entry of west.timeline({ tenant: april.tenant })) {
    if (entry.actor === cleanUpActor) suspects.push(entry.name)
  }
  tell.check(
    'the timeline names every commit of the job',
    suspects.join() === commits.map(({ outcome }) => outcome.transactionId).join(),
  )
  tell.say(
    `The timeline shows ${countOf(suspects.length, 'transaction')} of ${cleanUpActor}, the first one ${suspects[0]}.`,
  )
  return violations.broken
}
