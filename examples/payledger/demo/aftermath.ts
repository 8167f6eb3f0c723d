import type { Evidence, InvariantResult, TimelineEntry } from 'holdfast'
import { formatHlc } from 'holdfast'
import { cleanUpActor } from '../clean-up.ts'
import type { PlannedRun } from '../payledger.ts'
import { readRun } from '../payledger.ts'
import { april } from '../seed.ts'
import { draftAndApprove, holdsOf } from './approval.ts'
import type { Incident } from './incident.ts'
import { sameMembers } from './words.ts'
import type { ApprovedRun } from './morning.ts'
import type { Stage } from './stage.ts'
import type { Telling } from './story.ts'
import { arrivedTwice } from './webhooks.ts'
import { comesTrue, countOf, homeGateway, listOf, violationsOf } from './words.ts'

/** What the approval's evidence says now. */
export async function proveApproval({ west }: Stage, { approval }: ApprovedRun, tell: Telling): Promise<Evidence> {
  const evidence = await west.prove(approval.transactionId)
  const broken = evidence.links.filter(({ status }) => status === 'broken')
  tell.check(
    'the decision is proven',
    evidence.links.some(({ link, status }) => link === 'decision' && status === 'proven'),
  )
  tell.check('no link is broken', broken.length === 0)
  tell.check(
    'the commit timestamp is the one that the caller was given',
    evidence.commitTimestamp === approval.commitTimestamp,
  )
  for (const { link, reason } of broken) tell.say(`Broken is ${link}: ${reason}.`)
  const of = (status: string) => evidence.links.filter((link) => link.status === status).map(({ link }) => link)
  tell.say(
    `Transaction ${approval.transactionId}: proven are ${listOf(of('proven'))}; pending ${listOf(of('pending'))}.`,
  )
  return evidence
}

/** One approval, proven on both sides of the bad day. */
export async function proveAgain(
  stage: Stage,
  approved: ApprovedRun,
  before: Evidence,
  tell: Telling,
): Promise<Evidence> {
  const after = await proveApproval(stage, approved, tell)
  tell.check(
    'the same transaction, decided the same way at the same time, before and after',
    decisionOf(before) === decisionOf(after),
  )
  tell.say(
    `Before the bad day and after it: ${after.action} ${after.subject} by ${after.actor}, committed at ${formatHlc(approved.approval.commitTimestamp)}.`,
  )
  return after
}

function decisionOf({ transactionId, commitTimestamp, tenant, action, subject, actor, links }: Evidence): string {
  const decision = links.find(({ link }) => link === 'decision')?.status
  const stamp = commitTimestamp === null ? null : formatHlc(commitTimestamp)
  return JSON.stringify({ transactionId, stamp, tenant, action, subject, actor, decision })
}

/** Every approval of the day is there, with its own id, timestamp and hold. */
export async function nothingWasLost(
  stage: Stage,
  approvals: readonly ApprovedRun[],
  tell: Telling,
): Promise<readonly InvariantResult[]> {
  const { results, total } = await violationsOf(stage.west)
  tell.check('every invariant holds', results.length > 0 && total === 0)
  const kept = await Promise.all(approvals.map((each) => isKept(stage, each)))
  const missing = approvals.flatMap(({ tenant, run }, index) => (kept[index] === true ? [] : [`${run} of ${tenant}`]))
  tell.check(
    `every approval of the day is kept${missing.length === 0 ? '' : `, but ${missing.join(', ')}`}`,
    missing.length === 0,
  )
  tell.say(
    `${countOf(results.length, 'invariant')}, ${total} violations. All ${approvals.length} approvals of the day are there with the transaction id, commit timestamp and hold that they had.`,
  )
  return results
}

async function isKept(stage: Stage, { tenant, run, approval }: ApprovedRun): Promise<boolean> {
  const fleet = homeGateway(stage, tenant)
  const [view, holds] = await Promise.all([fleet.transaction(approval.transactionId), holdsOf(fleet, tenant)])
  return (
    view.outcome === 'committed' &&
    view.commitTimestamp === approval.commitTimestamp &&
    holds.get(run) === approval.transactionId
  )
}

/**
 * Tokens from before the incident read on. Those issued since its first commit may have seen what was left out, and are
 * told so: the approvals' own writes are kept, the job's are not.
 */
export async function askWithOldTokens(
  { west }: Stage,
  before: readonly ApprovedRun[],
  { commits, approvals }: Incident,
  tell: Telling,
): Promise<void> {
  const ours = (runs: readonly ApprovedRun[]) => runs.filter(({ tenant }) => tenant === april.tenant)
  for (const { run, approval } of ours(before)) {
    const read = await readRun(west, { ...april, run, session: approval.session, waitMs: 5_000 })
    tell.check(`the token of ${run} reads its own write`, read.run?.status === 'approved')
  }
  const during = ours(approvals)
  for (const { run, approval } of during) {
    const error = await tell.refused('history_rewritten', `the token of ${run} is told what it may have seen`, () =>
      readRun(west, { ...april, run, session: approval.session }),
    )
    tell.check(`none of it was ${run}'s own`, !mentions(error.detail['own'], approval.transactionId))
  }
  const codes = new Set<string>()
  for (const { outcome, runs } of commits) {
    const claim = `the token that deleted the holds of ${listOf(runs)} is told so`
    const error = await tell.refused(['history_rewritten', 'write_lost'], claim, () =>
      west.read({ tenant: april.tenant, session: outcome.session }, (read) =>
        read.query('treasury', 'select run_id from treasury_holds'),
      ),
    )
    codes.add(error.code)
    tell.check('the error names its transaction', mentions(error.detail, outcome.transactionId))
  }
  tell.say(
    `The token that ${april.run} was approved with still reads its own write, as do those of ${countOf(ours(before).length - 1, 'other approval')} before the incident. ${countOf(during.length, 'token')} issued during it may have seen the job's work and are told what was left out; their own writes are kept. The job's ${countOf(commits.length, 'token')} are told ${listOf([...codes])}, with the ids.`,
  )
}

function mentions(detail: unknown, transactionId: string): boolean {
  return JSON.stringify(detail).includes(transactionId)
}

/** What left through the outbox arrived once, also what was announced again by a replayed history. */
export async function countEffects(
  stage: Stage,
  approvals: readonly ApprovedRun[],
  oneMore: readonly PlannedRun[],
  tell: Telling,
): Promise<readonly ApprovedRun[]> {
  // Effects leave in order: when these have arrived, whatever would be sent again has been.
  const after: ApprovedRun[] = []
  for (const planned of oneMore) after.push(await draftAndApprove(stage, planned))
  const expected = approvals.length + after.length
  const arrived = () => new Set(stage.webhooks.deliveries().map(({ key }) => key)).size
  const all = await comesTrue(() => arrived() >= expected)
  const twice = arrivedTwice(stage.webhooks.deliveries())
  tell.check('every approval was announced', all && arrived() === expected)
  tell.check('no webhook arrived twice', twice.length === 0)
  tell.say(
    `${countOf(after.length, 'more approval')} after the cutover. ${expected} approvals, ${countOf(stage.webhooks.deliveries().length, 'webhook')}, ${twice.length} of them twice.`,
  )
  return after
}

/** The merged history of all shards: committed transactions, in one order. */
export async function readTimeline({ west }: Stage, approvals: readonly ApprovedRun[], tell: Telling): Promise<void> {
  const entries: TimelineEntry[] = []
  for await (const entry of west.timeline()) entries.push(entry)
  const approved = entries.filter(({ action }) => action === 'payroll.approve').map(({ name }) => name)
  tell.check(
    'it is in the order of commit timestamps',
    entries.every(
      (entry, index) => index === 0 || entry.commitTimestamp >= (entries[index - 1]?.commitTimestamp ?? 0n),
    ),
  )
  tell.check(
    'every approval is in it once',
    sameMembers(
      approved,
      approvals.map(({ approval }) => approval.transactionId),
    ),
  )
  tell.check(
    'nothing of the job is in it',
    entries.every(({ actor }) => actor !== cleanUpActor),
  )
  tell.check(
    'every commit is attributed',
    entries.every(({ attributed }) => attributed),
  )
  tell.say(
    `The finance timeline has ${countOf(entries.length, 'commit')} of ${countOf(new Set(entries.map(({ tenant }) => tenant)).size, 'tenant')}, ${approved.length} of them approvals, in one order over both shards; the job is not in it.`,
  )
}
