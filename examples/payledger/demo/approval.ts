import type { Fleet } from 'holdfast'
import { formatHlc } from 'holdfast'
import type { LinkCount } from 'holdfast/testing'
import type { PlannedRun } from '../payledger.ts'
import { approveRun, createRun, readRun } from '../payledger.ts'
import { april } from '../seed.ts'
import type { ApprovedRun } from './morning.ts'
import type { Stage } from './stage.ts'
import type { Telling } from './story.ts'
import { homeGateway, managerOf, money } from './words.ts'

/** Enough for any follower that replays at all. */
const catchUpMs = 10_000

/** A run of the day from draft to approval, at the tenant's own gateway. */
export async function draftAndApprove(stage: Stage, planned: PlannedRun): Promise<ApprovedRun> {
  const fleet = homeGateway(stage, planned.tenant)
  const actor = managerOf(planned.tenant)
  const draft = await createRun(fleet, { ...planned, actor })
  return { ...planned, approval: await approveRun(fleet, { ...planned, actor, session: draft.session }) }
}

/**
 * The approval of the story. Before it the follower in eu-central is held back: what it shows stays the draft, while it
 * goes on receiving, so that commits are as durable as ever.
 */
export async function approveApril(stage: Stage, follower: string, tell: Telling): Promise<ApprovedRun> {
  const { west, central, faults } = stage
  const actor = managerOf(april.tenant)
  const draft = await createRun(west, { ...april, actor })
  const seen = await readRun(central, { ...april, session: draft.session, waitMs: catchUpMs })
  tell.check(`the draft is seen on ${follower}`, seen.served[0]?.node === follower && seen.run?.status === 'draft')
  await faults.holdBack(follower)

  await faults.resetLinkCounts()
  const approval = await approveRun(west, { ...april, actor, session: draft.session, idempotencyKey: 'click-1' })
  const counts = await faults.linkCounts()

  const asked = roundTripsOf(counts, 'gateway-eu-west', 'us-east')
  tell.check('the approval is one round trip between the gateway and the treasury', asked === 1)
  tell.check('both shards were written', approval.shards.join() === 'eu-west/payroll,us-east/treasury')
  tell.say(
    `${actor} approves ${april.run}: ${money(approval.value.totalCents)}, transaction ${approval.transactionId}, committed at ${formatHlc(approval.commitTimestamp)} on ${approval.shards.join(' and ')}.`,
  )
  tell.say(
    `Between the gateway in eu-west and the treasury in us-east the link counted ${asked} round trip before the answer. Replication is counted apart: ${replicated(counts)}.`,
  )
  return { ...april, approval }
}

/** Fifty clicks on one button: one key, one approval, fifty answers. */
export async function clickFiftyTimes(stage: Stage, run: PlannedRun, tell: Telling): Promise<ApprovedRun> {
  const { west } = stage
  const clicks = 50
  const actor = managerOf(run.tenant)
  const { session } = await createRun(west, { ...run, actor })
  const answers = await Promise.all(
    Array.from({ length: clicks }, () =>
      approveRun(west, { ...run, actor, session, idempotencyKey: `approve ${run.run}` }),
    ),
  )
  const first = answers.find(({ replayed }) => !replayed)
  const [approval = first] = answers
  if (first === undefined || approval === undefined) throw new Error('nobody approved the run first')
  const told = answers.map(({ transactionId, commitTimestamp, value }) =>
    JSON.stringify({ transactionId, commitTimestamp: formatHlc(commitTimestamp), value }),
  )
  const holds = await holdsOf(west, run.tenant, first.session)
  tell.check('one click approved the run', answers.filter(({ replayed }) => !replayed).length === 1)
  tell.check('all clicks got the same answer', new Set(told).size === 1)
  tell.check('there is one hold, of the approval', holds.get(run.run) === first.transactionId)
  tell.say(
    `${clicks} clients approve ${run.run} at once with one idempotency key: ${answers.length} equal answers, ${answers.length - 1} of them replayed, one transaction ${first.transactionId}, one hold.`,
  )
  return { ...run, approval: first }
}

/**
 * The active holds of a tenant: by run, the transaction that reserved it. The treasury learns of a decision after the
 * caller does, so whoever wants to see an approval there brings its token.
 */
export async function holdsOf(fleet: Fleet, tenant: string, session?: string): Promise<ReadonlyMap<string, string>> {
  const { value } = await fleet.read({ tenant, session, level: 'primary' }, (read) =>
    read.query<{ run_id: string; reserved_in: string }>(
      'treasury',
      `select run_id, reserved_in from treasury_holds where tenant = $1 and status = 'active' order by run_id`,
      [tenant],
    ),
  )
  return new Map(value.rows.map((row) => [row.run_id, row.reserved_in]))
}

/** What a gateway's transactions waited for. Its services (clock, resolver, outbox) have connections of their own. */
function roundTripsOf(counts: readonly LinkCount[], gateway: string, to: string): number {
  return counts
    .filter((count) => count.kind === 'client' && count.application === gateway && count.to === to)
    .reduce((sum, count) => sum + count.roundTrips, 0)
}

function replicated(counts: readonly LinkCount[]): string {
  const streams = counts.filter((count) => count.kind === 'replication' && count.bytesFrom > 0)
  return (
    streams.map(({ from, to, bytesFrom }) => `${bytesFrom} bytes of log went from ${to} to ${from}`).join(', ') ||
    'no log has crossed a link yet'
  )
}
