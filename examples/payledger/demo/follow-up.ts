import { readUnchecked } from 'holdfast/testing'
import type { PlannedRun } from '../payledger.ts'
import { readRun } from '../payledger.ts'
import { draftAndApprove } from './approval.ts'
import type { ApprovedRun } from './morning.ts'
import type { Stage } from './stage.ts'
import type { Telling } from './story.ts'

/** Long enough for a reader to be waiting when the follower is released, and for the follower to catch up. */
const patientMs = 10_000
const impatientMs = 30
const readerWaitsMs = 150

/** What a reader beside the follower would see who asks for no proof. */
async function unchecked(stage: Stage, follower: string, { tenant, run }: PlannedRun): Promise<string> {
  const { rows } = await readUnchecked<{ status: string }>(stage.central, {
    tenant,
    node: follower,
    text: 'select status from payroll_runs where tenant = $1 and id = $2',
    values: [tenant, run],
  })
  return rows[0]?.status ?? 'no such run'
}

/** The next screen, in eu-central, while its follower is held back: wait for it. */
export async function waitForFollower(
  stage: Stage,
  follower: string,
  april: ApprovedRun,
  tell: Telling,
): Promise<void> {
  const { central, faults } = stage
  const { session } = april.approval
  const stale = await unchecked(stage, follower, april)
  tell.check('an unchecked read of the follower shows what was before the approval', stale === 'draft')
  tell.say(`An unchecked read on ${follower} shows ${april.run} as "${stale}": the approval is not there.`)

  const reading = readRun(central, { ...april, session, waitMs: patientMs })
  await new Promise((resolve) => setTimeout(resolve, readerWaitsMs))
  await faults.release(follower)
  const { run, served } = await reading
  const [by] = served
  tell.check('the token gets the approval', run?.status === 'approved')
  tell.check(`it came from ${follower}, after waiting for it`, by?.node === follower && (by?.waitedMs ?? 0) > 0)
  tell.say(
    `The same read with the token waits until the follower is released: "${run?.status}" from ${by?.node} after ${by?.waitedMs} ms, applied through ${by?.appliedThrough}.`,
  )
}

/** Held back again, with less patience: another node answers. Then with none left: an explicit no. */
export async function elsewhereOrNowhere(
  stage: Stage,
  follower: string,
  planned: PlannedRun,
  tell: Telling,
): Promise<ApprovedRun> {
  const { central, faults } = stage
  await faults.holdBack(follower)
  const approved = await draftAndApprove(stage, planned)
  const { session } = approved.approval
  const stale = await unchecked(stage, follower, approved)
  tell.check('the follower does not show the approval', stale !== 'approved')

  const { run, served } = await readRun(central, { ...approved, session, waitMs: impatientMs })
  const [by] = served
  tell.check('the token gets the approval', run?.status === 'approved')
  tell.check('it came from another node', by?.node !== follower && by?.rerouted === true)
  tell.say(
    `${follower} is held back again and ${planned.run} approved; unchecked it shows "${stale}" there. A reader who waits ${impatientMs} ms at most is sent on to the ${by?.role} ${by?.node} in ${by?.region}: "${run?.status}".`,
  )

  await faults.cutLink('eu-central', 'eu-west')
  try {
    const error = await tell.refused('frontier_not_reached', 'with every way closed the read says so', () =>
      readRun(central, { ...approved, session, waitMs: impatientMs }),
    )
    tell.say(
      `With the link to eu-west cut as well nobody in reach can prove it, and the read says so: ${error.message}.`,
    )
  } finally {
    await faults.healLink('eu-central', 'eu-west')
    await faults.release(follower)
  }
  const healed = await readRun(central, { ...approved, session, waitMs: patientMs })
  tell.check('with the link healed and the follower released the token reads again', healed.run?.status === 'approved')
  return approved
}
