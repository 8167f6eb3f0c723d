import type { CutoverReport, Evidence, Gate, InvariantResult } from 'holdfast'
import { formatHlc } from 'holdfast'
import type { PlannedRun } from '../payledger.ts'
import { askWithOldTokens, countEffects, nothingWasLost, proveAgain, proveApproval, readTimeline } from './aftermath.ts'
import { approveApril, clickFiftyTimes, draftAndApprove } from './approval.ts'
import { elsewhereOrNowhere, waitForFollower } from './follow-up.ts'
import { cleanUpGoesWrong, detect } from './incident.ts'
import { refuseFailover, refuseMisplacedWrite } from './law.ts'
import type { ApprovedRun } from './morning.ts'
import { closeOfMarch, fleetIsUp, seed, takeBackup } from './morning.ts'
import { checkEnvironment, cutOver, dryRun, restore } from './recovery.ts'
import type { Stage } from './stage.ts'
import type { Story, Telling } from './story.ts'
import { listOf } from './words.ts'

/** What a run of the day has to show, beyond its steps. */
export interface DayResult {
  readonly approval: { readonly transactionId: string; readonly commitTimestamp: string; readonly session: string }
  readonly prove: { readonly before: ShownEvidence; readonly after: ShownEvidence }
  readonly invariants: readonly Pick<InvariantResult, 'name' | 'violations'>[]
  readonly drill: { readonly rtoMs: number; readonly gates: readonly Gate[] }
}

type ShownEvidence = Omit<Evidence, 'commitTimestamp'> & { readonly commitTimestamp: string | null }

const ofGlobex = (department: string): PlannedRun => ({
  tenant: 'globex-eu',
  run: `apr-2026-${department}`,
  department,
})
const ofAcme = (department: string): PlannedRun => ({ tenant: 'acme-de', run: `apr-2026-${department}`, department })
const ofInitech = (department: string): PlannedRun => ({
  tenant: 'initech-us',
  run: `apr-2026-${department}`,
  department,
})

/** The follower of the EU payroll that the day holds back. */
async function followerInEuCentral({ west }: Stage): Promise<string> {
  const payroll = (await west.status()).shards.find(({ shard }) => shard === 'eu-west/payroll')
  const follower = payroll?.nodes.find(({ region, role }) => region === 'eu-central' && role === 'follower')
  if (follower === undefined) throw new Error('eu-west/payroll has no follower in eu-central')
  return follower.node
}

/** The day in order. Each step leans on what the ones before it gave. */
export async function playDay(story: Story, stage: Stage): Promise<DayResult> {
  const morning = await playMorning(story, stage)
  const { april, before } = morning
  const { incident, restored, cutover, approvals: later } = await playBadDay(story, stage)
  const approvals = [...morning.approvals, ...later]

  const invariants = await story.step('kept', 'Nothing valid was lost', (tell) =>
    nothingWasLost(stage, approvals, tell),
  )
  const after = await story.step('prove-after', 'The evidence after the bad day', (tell) =>
    proveAgain(stage, april, before, tell),
  )
  await story.step('tokens', 'Tokens from before', (tell) => askWithOldTokens(stage, morning.readers, incident, tell))
  const evening = await story.step('effects', 'What left the house', (tell) =>
    countEffects(stage, approvals, [ofAcme('support'), ofInitech('support')], tell),
  )
  await story.step('timeline', 'The finance timeline', (tell) => readTimeline(stage, [...approvals, ...evening], tell))
  return resultOf({ april, before, after, invariants, cutover, restored })
}

async function playMorning(story: Story, stage: Stage) {
  await story.step('fleet', 'The fleet is up', (tell) => fleetIsUp(stage, tell))
  await story.step('seed', 'Three tenants, their people and their cash', (tell) => seed(stage, tell))
  await story.step('backup', 'Base backups', (tell) => takeBackup(stage, tell))
  const march = await story.step('close', 'The close of March', (tell) => closeOfMarch(stage, tell))

  const follower = await followerInEuCentral(stage)
  const april = await story.step('approval', '09:45, the approval of apr-2026', (tell) =>
    approveApril(stage, follower, tell),
  )
  await story.step('read-wait', 'The next screen, on a follower that lags', (tell) =>
    waitForFollower(stage, follower, april, tell),
  )
  const seenElsewhere = await story.step('read-elsewhere', 'The next screen, when the follower stays behind', (tell) =>
    elsewhereOrNowhere(stage, follower, ofGlobex('logistics'), tell),
  )
  const clicked = await story.step('fifty-clicks', 'Fifty clicks on one button', (tell) =>
    clickFiftyTimes(stage, ofGlobex('sales'), tell),
  )
  await story.step('failover-refused', 'A promotion that the law forbids', (tell) => refuseFailover(stage, tell))
  await story.step('write-refused', 'An EU write sent to the US', (tell) => refuseMisplacedWrite(stage, tell))
  const before = await story.step('prove-before', 'The evidence before the bad day', (tell) =>
    proveApproval(stage, april, tell),
  )
  const readers = [april, seenElsewhere, clicked]
  return { april, before, readers, approvals: [...march, ...readers] }
}

async function playBadDay(story: Story, stage: Stage) {
  const incident = await story.step('incident', '10:14, a clean-up job goes wrong', (tell) =>
    cleanUpGoesWrong(stage, [[ofGlobex('support'), ofInitech('hq')], [ofAcme('hq')], [ofGlobex('engineering')]], tell),
  )
  await story.step('detection', 'What must hold does not', (tell) => detect(stage, incident, tell))
  const beforeRestore = await story.step('business-goes-on', 'People go on approving', (tell) =>
    goOnApproving(stage, [ofAcme('sales'), ofInitech('sales')], 'while the incident is looked into', tell),
  )

  await story.step('dry-run', 'What leaving the job out would mean', (tell) => dryRun(stage, incident, tell))
  const restored = await story.step('restore', 'Restore to just before it, replay without it', (tell) =>
    restore(stage, incident, tell),
  )
  await story.step('environment', 'The restored environment is checked', (tell) =>
    checkEnvironment(stage, restored.environment, tell),
  )
  const afterRestore = await story.step('business-still-goes-on', 'People still go on approving', (tell) =>
    goOnApproving(stage, [ofGlobex('hq'), ofInitech('logistics')], 'on the fleet that is about to be replaced', tell),
  )
  const cutover = await story.step('cutover', 'Cutover', (tell) => cutOver(stage, restored.environment, incident, tell))
  return { incident, restored, cutover, approvals: [...incident.approvals, ...beforeRestore, ...afterRestore] }
}

async function goOnApproving(
  stage: Stage,
  runs: readonly PlannedRun[],
  when: string,
  tell: Telling,
): Promise<readonly ApprovedRun[]> {
  const approved = await Promise.all(runs.map((run) => draftAndApprove(stage, run)))
  tell.say(`${listOf(approved.map(({ tenant, run }) => `${run} of ${tenant}`))}: approved ${when}.`)
  return approved
}

function resultOf(parts: {
  april: ApprovedRun
  before: Evidence
  after: Evidence
  invariants: readonly InvariantResult[]
  cutover: CutoverReport
  restored: { readonly rtoMs: number; readonly gates: readonly Gate[] }
}): DayResult {
  const { april, before, after, invariants, cutover, restored } = parts
  const { transactionId, commitTimestamp, session } = april.approval
  return {
    approval: { transactionId, commitTimestamp: formatHlc(commitTimestamp), session },
    prove: { before: shown(before), after: shown(after) },
    invariants: invariants.map(({ name, violations }) => ({ name, violations })),
    drill: { rtoMs: restored.rtoMs, gates: [...restored.gates, ...cutover.gates] },
  }
}

function shown(evidence: Evidence): ShownEvidence {
  const { commitTimestamp } = evidence
  return { ...evidence, commitTimestamp: commitTimestamp === null ? null : formatHlc(commitTimestamp) }
}
