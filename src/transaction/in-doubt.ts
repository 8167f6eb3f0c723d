import { assert, present, unreachable } from '../base/assert.ts'
import type { Epoch, ShardName, ShardTopology, TransactionId } from '../directory/topology.ts'
import { ServerError } from '../postgres/failure.ts'
import { sqlState } from '../postgres/sqlstate.ts'
import type { TransactionEnvironment } from './environment.ts'
import { primaryTarget, shardOf } from './environment.ts'
import type { BranchName } from './gid.ts'
import { gidPrefix, parseGid } from './gid.ts'
import type { Resolution, ResolverEffect, ResolverEvent } from './resolver-protocol.ts'
import { beginResolving, stepResolver } from './resolver-protocol.ts'
import type { Settlement } from './settlement.ts'
import { needsPerson, settleBranch } from './settlement.ts'
import type { TransactionRecord } from './decision-store.ts'
import * as decisions from './decision-store.ts'

/**
 * Branches that are prepared here and whose decision is not known here, and how one of them is resolved: by the record
 * at its home and nothing else. Where there is none, and none is on its way, ABORTED is written under the same
 * key (presumed abort); the index decides against a coordinator that is still on its way.
 */
export interface InDoubtBranch {
  readonly gid: string
  readonly name: BranchName
  readonly ageMs: number
}

/** Throws when the participant does not answer. Prepared transactions of others are not ours to see. */
export async function listInDoubt(
  environment: TransactionEnvironment,
  participant: ShardName,
  withinMs = environment.limits.serviceWithinMs,
): Promise<InDoubtBranch[]> {
  const [outcome] = await environment.pools.flight(
    primaryTarget(environment, participant),
    [decisions.selectPrepared(gidPrefix(environment.fleet))],
    withinMs,
    withinMs,
  )
  return decisions.readPrepared(present(outcome, 'the prepared transactions')).flatMap(({ gid, ageMs }) => {
    const name = parseGid(gid, environment.fleet, participant)
    return name === undefined ? [] : [{ gid, name, ageMs }]
  })
}

/**
 * Settles a branch as its home has decided. Without a record its abort is presumed when home's part of the transaction has
 * ended, or the branch is older than `abortAfterMs`. Never rejects.
 */
export async function resolveBranch(
  environment: TransactionEnvironment,
  branch: InDoubtBranch,
  abortAfterMs: number,
): Promise<Resolution> {
  try {
    const home = shardOf(environment, branch.name.home)
    if (home.state !== 'open') return { kind: 'left', why: `home ${home.name} is ${home.state}`, failed: null }
    let { state, effect } = beginResolving(branch.ageMs >= abortAfterMs)
    while (effect !== undefined) {
      const event = await carryOut(environment, branch.name, home, effect)
      ;({ state, effect } = stepResolver(state, event))
    }
    assert(state.kind === 'done', 'without an effect it is done')
    return state.resolution
  } catch (error) {
    return { kind: 'left', why: describe(error), failed: 'home' }
  }
}

/** `home` is the home as it was when the branch was taken up: whose word counts, and at which epoch. Never rejects. */
async function carryOut(
  environment: TransactionEnvironment,
  branch: BranchName,
  home: ShardTopology,
  effect: ResolverEffect,
): Promise<ResolverEvent> {
  const { onStep, barriers } = environment
  const where = { transactionId: branch.transactionId, shard: branch.participant }
  try {
    switch (effect.kind) {
      case 'read record':
        return await askHome(environment, branch)
      case 'presume abort': {
        const record = await presumeAbort(environment, branch, home.epoch)
        await onStep('resolver abort inserted', where)
        return { kind: 'record', decision: record }
      }
      case 'pass barrier':
        await barriers.pass(home.name, home.primary.id)
        await onStep('resolver barrier', where)
        return { kind: 'barrier passed' }
      case 'settle': {
        const { decision } = effect
        const settlement = await settleBranch(environment, { branch, homeEpoch: home.epoch, decision })
        await onStep('resolver settle', where)
        return eventOf(settlement, decision.outcome)
      }
      default:
        return unreachable(effect)
    }
  } catch (error) {
    return eventOfFailure(error)
  }
}

/**
 * What stands at home, on one connection and in this order: a part that ends after it was seen open may leave a record that
 * is not seen here, one that had ended before leaves none that is not.
 */
export async function askHome(
  environment: TransactionEnvironment,
  { home, transactionId }: BranchName,
): Promise<Extract<ResolverEvent, { kind: 'record' | 'no record' }>> {
  const [open, found, collected] = await environment.pools.flight(
    primaryTarget(environment, home),
    [
      decisions.selectHomeIsOpen(transactionId),
      decisions.selectRecord(transactionId),
      decisions.selectCouldBeCollected(transactionId),
    ],
    environment.limits.serviceWithinMs,
  )
  const record = decisions.readRecord(present(found, 'the outcome of the record'))
  if (record !== undefined) return { kind: 'record', decision: record }
  return {
    kind: 'no record',
    homeIsOpen: decisions.readAnswer(present(open, 'whether home is open')),
    couldBeCollected: decisions.readAnswer(present(collected, 'whether it could have been collected')),
  }
}

async function presumeAbort(
  environment: TransactionEnvironment,
  { home, transactionId, participant }: BranchName,
  epoch: Epoch,
): Promise<TransactionRecord> {
  const reason = `no record when the branch on ${participant} was found`
  const [outcome] = await environment.pools.durableFlight(
    primaryTarget(environment, home),
    [decisions.abortUnlessRecorded(transactionId, [participant], epoch, reason)],
    environment.limits.serviceWithinMs,
  )
  return present(decisions.readRecord(present(outcome, 'the outcome of the record')), 'the record that stands')
}

function eventOf(settlement: Settlement, outcome: 'COMMITTED' | 'ABORTED'): ResolverEvent {
  if (settlement.kind === 'settled') return { kind: 'settled' }
  if (settlement.kind === 'failed') {
    return { kind: 'failed', why: describe(settlement.cause), needsPerson: needsPerson(settlement) }
  }
  if (settlement.kind === 'busy') return { kind: 'failed', why: 'another settles it', needsPerson: false }
  return { kind: 'failed', why: `decided ${outcome}, and the branch is ${settlement.kind}`, needsPerson: true }
}

function eventOfFailure(error: unknown): ResolverEvent {
  const needsPerson = error instanceof ServerError && error.sqlState === sqlState.belowCollection
  return { kind: 'failed', why: needsPerson ? error.message : describe(error), needsPerson }
}

export function describe(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}

/**
 * What came of a branch that was looked for. `absent`: neither visible nor prepared, which a reader takes as a reason not to
 * trust the node. `silent`: the shard did not say whether it is there.
 */
export type Pushed = Resolution | { readonly kind: 'absent' } | { readonly kind: 'silent'; readonly why: string }

/** Settles, before someone reads there, a branch that is known to be decided. Never rejects. */
export async function pushBranch(
  environment: TransactionEnvironment,
  participant: ShardName,
  transactionId: TransactionId,
): Promise<Pushed> {
  try {
    const found = await findBranch(environment, participant, transactionId)
    environment.metrics.count('reads_pushed_total', { shard: participant })
    if (found.kind === 'visible') return { kind: 'settled', outcome: 'COMMITTED' }
    if (found.kind === 'absent') return found
    return await resolveBranch(environment, found.branch, Number.POSITIVE_INFINITY)
  } catch (error) {
    return { kind: 'silent', why: describe(error) }
  }
}

export type FoundBranch =
  | { readonly kind: 'visible' }
  | { readonly kind: 'prepared'; readonly branch: InDoubtBranch }
  | { readonly kind: 'absent' }

/** What the primary of its shard has of a branch, in one round trip; settles nothing. Throws when it does not answer. */
export async function findBranch(
  environment: TransactionEnvironment,
  participant: ShardName,
  transactionId: TransactionId,
): Promise<FoundBranch> {
  // In this order: one that is settled in between is visible before it is listed no more.
  const [prepared, visible] = await environment.pools.flight(
    primaryTarget(environment, participant),
    [decisions.selectPrepared(gidPrefix(environment.fleet)), decisions.selectBranchVisible(transactionId)],
    environment.limits.serviceWithinMs,
  )
  if (decisions.readAnswer(present(visible, 'whether the branch is visible'))) return { kind: 'visible' }
  for (const { gid, ageMs } of decisions.readPrepared(present(prepared, 'the prepared transactions'))) {
    const name = parseGid(gid, environment.fleet, participant)
    if (name?.transactionId === transactionId) return { kind: 'prepared', branch: { gid, name, ageMs } }
  }
  return { kind: 'absent' }
}
