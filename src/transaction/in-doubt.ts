import { assert, present, unreachable } from '../base/assert.ts'
import { HoldfastError } from '../base/errors.ts'
import type { Epoch, ShardName, ShardTopology, TransactionId } from '../directory/topology.ts'
import { ServerError } from '../postgres/connection.ts'
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
 * at its home and nothing else. Where there is none, and the branch is old enough, ABORTED is written under the same
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
): Promise<InDoubtBranch[]> {
  const [outcome] = await environment.pools.flight(
    primaryTarget(environment, participant),
    [decisions.selectPrepared(gidPrefix(environment.fleet))],
    environment.limits.serviceWithinMs,
  )
  return decisions.readPrepared(present(outcome, 'the prepared transactions')).flatMap(({ gid, ageMs }) => {
    const name = parseGid(gid, environment.fleet, participant)
    return name === undefined ? [] : [{ gid, name, ageMs }]
  })
}

/** Settles a branch as its home has decided; presumes its abort when it is older than `abortAfterMs`. Never rejects. */
export async function resolveBranch(
  environment: TransactionEnvironment,
  branch: InDoubtBranch,
  abortAfterMs: number,
): Promise<Resolution> {
  try {
    const home = shardOf(environment, branch.name.home)
    if (home.state !== 'open') return { kind: 'left', why: `home ${home.name} is fenced` }
    let { state, effect } = beginResolving(branch.ageMs >= abortAfterMs)
    while (effect !== undefined) {
      const event = await carryOut(environment, branch.name, home, effect)
      ;({ state, effect } = stepResolver(state, event))
    }
    assert(state.kind === 'done', 'without an effect it is done')
    return state.resolution
  } catch (error) {
    return { kind: 'left', why: describe(error) }
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
      case 'read record': {
        const record = await readRecordOf(environment, branch)
        return record === undefined ? { kind: 'no record' } : { kind: 'record', decision: record }
      }
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

async function readRecordOf(
  environment: TransactionEnvironment,
  { home, transactionId }: BranchName,
): Promise<TransactionRecord | undefined> {
  const [outcome] = await environment.pools.flight(
    primaryTarget(environment, home),
    [decisions.selectRecord(transactionId)],
    environment.limits.serviceWithinMs,
  )
  return decisions.readRecord(present(outcome, 'the outcome of the record'))
}

async function presumeAbort(
  environment: TransactionEnvironment,
  { home, transactionId, participant }: BranchName,
  epoch: Epoch,
): Promise<TransactionRecord> {
  const reason = `no record when the branch on ${participant} was found`
  const [outcome] = await environment.pools.flight(
    primaryTarget(environment, home),
    [decisions.abortUnlessRecorded(transactionId, [participant], epoch, reason)],
    environment.limits.serviceWithinMs,
  )
  return present(decisions.readRecord(present(outcome, 'the outcome of the record')), 'the record that stands')
}

function eventOf(settlement: Settlement, outcome: 'COMMITTED' | 'ABORTED'): ResolverEvent {
  if (settlement.kind === 'settled') return { kind: 'settled' }
  if (needsPerson(settlement)) {
    return { kind: 'failed', why: `decided ${outcome}, and the branch is ${settlement.kind}`, needsPerson: true }
  }
  const why = settlement.kind === 'failed' ? describe(settlement.cause) : 'another settles it'
  return { kind: 'failed', why, needsPerson: false }
}

function eventOfFailure(error: unknown): ResolverEvent {
  const needsPerson = error instanceof ServerError && error.sqlState === sqlState.belowCollection
  return { kind: 'failed', why: needsPerson ? error.message : describe(error), needsPerson }
}

function describe(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}

/**
 * Settles, before someone reads there, a branch that is known to be decided. `absent`: neither visible nor prepared,
 * which a reader takes as a reason not to trust the node.
 */
export async function pushBranch(
  environment: TransactionEnvironment,
  participant: ShardName,
  transactionId: TransactionId,
): Promise<Resolution | { readonly kind: 'absent' }> {
  try {
    const [visible, prepared] = await environment.pools.flight(
      primaryTarget(environment, participant),
      [decisions.selectBranchVisible(transactionId), decisions.selectPrepared(gidPrefix(environment.fleet))],
      environment.limits.serviceWithinMs,
    )
    environment.metrics.count('reads_pushed_total', { shard: participant })
    if (decisions.readAnswer(present(visible, 'whether the branch is visible'))) {
      return { kind: 'settled', outcome: 'COMMITTED' }
    }
    for (const { gid, ageMs } of decisions.readPrepared(present(prepared, 'the prepared transactions'))) {
      const name = parseGid(gid, environment.fleet, participant)
      if (name?.transactionId !== transactionId) continue
      return await resolveBranch(environment, { gid, name, ageMs }, Number.POSITIVE_INFINITY)
    }
    return { kind: 'absent' }
  } catch (error) {
    return { kind: 'left', why: describe(error) }
  }
}

export interface InDoubtExplanation extends BranchName {
  readonly gid: string
  readonly ageMs: number
  /** What a resolver would do now. */
  readonly verdict: 'commit' | 'roll back' | 'wait' | 'unknown'
  readonly why: string
}

/** What is in doubt on every shard and what would become of it; changes nothing. Throws when a participant is silent. */
export async function explainInDoubt(
  environment: TransactionEnvironment,
  abortAfterMs: number,
): Promise<InDoubtExplanation[]> {
  const shards = [...environment.topology.current().shards.keys()]
  const branches = await Promise.all(
    shards.map(async (shard) => {
      try {
        return await listInDoubt(environment, shard)
      } catch (error) {
        throw new HoldfastError('node_unavailable', `${shard} does not tell what is prepared there`, {
          detail: { shard },
          cause: error,
        })
      }
    }),
  )
  return Promise.all(branches.flat().map((branch) => explain(environment, branch, abortAfterMs)))
}

async function explain(
  environment: TransactionEnvironment,
  { gid, name, ageMs }: InDoubtBranch,
  abortAfterMs: number,
): Promise<InDoubtExplanation> {
  const about = { ...name, gid, ageMs }
  try {
    const record = await readRecordOf(environment, name)
    if (record?.outcome === 'COMMITTED')
      return { ...about, verdict: 'commit', why: `${name.home} has the record COMMITTED` }
    if (record !== undefined) return { ...about, verdict: 'roll back', why: `${name.home} has the record ABORTED` }
    return ageMs < abortAfterMs
      ? { ...about, verdict: 'wait', why: 'no record, and its coordinator may be on its way' }
      : { ...about, verdict: 'roll back', why: `no record after ${Math.round(ageMs)} ms: presumed aborted` }
  } catch (error) {
    return { ...about, verdict: 'unknown', why: describe(error) }
  }
}
