import { present } from '../base/assert.ts'
import { HoldfastError } from '../base/errors.ts'
import type { ShardName } from '../directory/topology.ts'
import type { Hlc } from '../hlc/hlc.ts'
import { compareCommits, hlcFromWallMs } from '../hlc/hlc.ts'
import type { AcceptedBy, AcceptedDecision, ClockAcceptance } from './clock-acceptance-store.ts'
import * as acceptances from './clock-acceptance-store.ts'
import type { ClockRefusal, ClockRemedy } from './clock-refusal.ts'
import { explainRefusal, refusalOf, remedyOf } from './clock-refusal.ts'
import type { Decision } from './decision-store.ts'
import * as decisions from './decision-store.ts'
import type { TransactionEnvironment } from './environment.ts'
import { primaryTarget, shardOf } from './environment.ts'
import type { InDoubtBranch } from './in-doubt.ts'
import { askHome, describe, listInDoubt } from './in-doubt.ts'
import { toSilence } from './sql-errors.ts'

/**
 * A person lets the clock of a shard pass decisions that it refuses for their time (C8). Here it is seen whether that is the way
 * out; who has the right to it is asked to do it, with the evidence. What is accepted is settled by a resolver, as everything is.
 */

/** A decision that a participant refuses, with what tells why. */
export interface RefusedDecision {
  readonly refusal: ClockRefusal
  readonly remedy: ClockRemedy
  readonly walls: ReadonlyMap<ShardName, Hlc>
}

/** What the participant of a branch would say of the time of its decision; undefined where it takes it. */
export async function examineDecision(
  environment: TransactionEnvironment,
  { name: { home, participant, transactionId } }: Pick<InDoubtBranch, 'name'>,
  decision: Decision,
): Promise<RefusedDecision | undefined> {
  if (decision.outcome === 'ABORTED') return undefined
  const { pools, clock, limits } = environment
  const [reading] = await pools.flight(
    primaryTarget(environment, participant),
    [decisions.selectClock],
    limits.serviceWithinMs,
  )
  const at = decisions.readClock(present(reading, 'the clock of the participant'))
  const refusal = refusalOf(decision.commitTimestamp, at, hlcFromWallMs(clock.wallMs()))
  if (refusal === undefined) return undefined
  const [logged] = await pools.flight(
    primaryTarget(environment, home),
    [decisions.selectCommit(transactionId)],
    limits.serviceWithinMs,
  )
  const walls = await wallsBeside(environment, participant)
  const row = decisions.readCommit(present(logged, 'the commit log of home'))
  return { refusal, remedy: remedyOf(refusal, row?.commitTimestamp, walls), walls }
}

/** The walls of the servers of all other shards. One that does not answer says nothing. */
async function wallsBeside(environment: TransactionEnvironment, shard: ShardName): Promise<Map<ShardName, Hlc>> {
  const { pools, limits, topology } = environment
  const others = [...topology.current().shards.keys()].filter((name) => name !== shard)
  const read = async (name: ShardName) => {
    const [outcome] = await pools.flight(
      primaryTarget(environment, name),
      [decisions.selectClock],
      limits.serviceWithinMs,
    )
    return [name, decisions.readClock(present(outcome, 'the clock of a shard')).wall] as const
  }
  const answers = await Promise.allSettled(others.map(read))
  return new Map(answers.flatMap((answer) => (answer.status === 'fulfilled' ? [answer.value] : [])))
}

/**
 * Has every decision accepted that a shard refuses for its time, where that is the way out: `accept` is asked for each, the
 * earliest time first, since an acceptance covers all times below it and no row would be written of those. So none is accepted
 * above a decision with another way out, which it would let pass with the fault in it; nor any while a home does not tell what
 * it has decided, for that may be such a one. Tells what stands, and of a second call of the same person with the same reason what
 * the first one did. Throws `clock_acceptance_refused` (never) where nothing is to be accepted, and `node_unavailable` (safe) when
 * the home of a branch does not answer, is not open or lets no barrier pass; what was accepted until then stands, and it
 * may be repeated.
 */
export async function acceptClock(
  environment: TransactionEnvironment,
  shard: ShardName,
  by: AcceptedBy,
  accept: (decision: AcceptedDecision) => Promise<unknown>,
): Promise<readonly ClockAcceptance[]> {
  const { name } = shardOf(environment, shard)
  const branches = await listOn(environment, name)
  const examined = await Promise.allSettled(branches.map((branch) => candidateOf(environment, branch)))
  const failed = examined.find((one) => one.status === 'rejected')
  if (failed !== undefined) throw silent(shard, failed.reason)
  const refused = examined.flatMap((one) => (one.status === 'fulfilled' && one.value !== undefined ? [one.value] : []))
  if (refused.length === 0) {
    const isSame = ({ actor, reason }: ClockAcceptance) => actor === by.actor && reason === by.reason
    const before = (await listAcceptances(environment, shard)).filter(isSame)
    if (before.length > 0) return before
    throw notAccepted(shard, `${shard} refuses no decision for its time`)
  }
  const inOrder = refused.toSorted((a, b) => compareCommits(a.decision, b.decision))
  const firstOther = inOrder.findIndex(({ remedy }) => remedy.kind !== 'accept')
  const acceptable = firstOther === -1 ? inOrder : inOrder.slice(0, firstOther)
  if (acceptable.length === 0) throw notAccepted(shard, inOrder.map(({ why }) => why).join('; '))
  for (const { branch, passBarrier, decision } of acceptable) {
    // R2: a record that a failover can take back moves no clock.
    await passBarrier()
    try {
      await accept(decision)
    } catch (error) {
      const isRefused = error instanceof HoldfastError && error.code === 'clock_acceptance_refused'
      if (!isRefused || (await isHeldUp(environment, branch))) throw error
    }
  }
  const ids = new Set(acceptable.map(({ decision }) => decision.transactionId))
  return (await listAcceptances(environment, shard)).filter(({ transactionId }) => ids.has(transactionId))
}

/** A branch that somebody settled meanwhile, or whose time another acceptance covers by now, needs none of its own. */
async function isHeldUp(environment: TransactionEnvironment, branch: InDoubtBranch): Promise<boolean> {
  const branches = await listOn(environment, branch.name.participant)
  return branches.some(({ gid }) => gid === branch.gid) && (await candidateOf(environment, branch)) !== undefined
}

async function listOn(environment: TransactionEnvironment, shard: ShardName): Promise<InDoubtBranch[]> {
  try {
    return await listInDoubt(environment, shard)
  } catch (error) {
    throw silent(shard, error)
  }
}

async function candidateOf(environment: TransactionEnvironment, branch: InDoubtBranch) {
  const { gid, name } = branch
  const home = shardOf(environment, name.home)
  if (home.state !== 'open') throw silent(name.participant, `home ${home.name} is ${home.state}`)
  const passBarrier = () => environment.barriers.pass(home.name, home.primary.id)
  const heard = await askHome(environment, name)
  const found = heard.kind === 'record' ? await examineDecision(environment, branch, heard.decision) : undefined
  if (found === undefined) {
    // Of a home that was replaced unheard the decision may wait for followers that it has lost, invisible, and be told elsewhere.
    await passBarrier()
    return undefined
  }
  const { refusal, remedy, walls } = found
  const decision: AcceptedDecision = {
    transactionId: name.transactionId,
    gid,
    home: home.name,
    homeEpoch: home.epoch,
    commitTimestamp: refusal.commitTimestamp,
    walls,
  }
  return { branch, remedy, decision, passBarrier, why: explainRefusal(name, refusal, remedy) }
}

/** What was accepted on a shard, the last one first. Throws `node_unavailable` (safe) when it is silent. */
export async function listAcceptances(
  environment: TransactionEnvironment,
  shard: ShardName,
): Promise<readonly ClockAcceptance[]> {
  const { pools, limits } = environment
  try {
    const [outcome] = await pools.flight(
      primaryTarget(environment, shard),
      [acceptances.selectAcceptances],
      limits.serviceWithinMs,
    )
    return acceptances.readAcceptances(present(outcome, 'the accepted clocks'))
  } catch (error) {
    throw toSilence(error, shard, 'which clocks were accepted there')
  }
}

function silent(shard: ShardName, cause: unknown): HoldfastError {
  if (cause instanceof HoldfastError) return cause
  return new HoldfastError(
    'node_unavailable',
    `what is decided of branches on ${shard} cannot be read: ${describe(cause)}`,
    {
      hint: 'run it again when the shard and the homes of its branches answer',
      detail: { shard },
      cause,
    },
  )
}

function notAccepted(shard: ShardName, why: string): HoldfastError {
  return new HoldfastError('clock_acceptance_refused', why, {
    hint: 'holdfast resolve --dry-run tells of every branch what becomes of it',
    detail: { shard },
  })
}
