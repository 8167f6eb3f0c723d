import { present } from '../../base/assert.ts'
import { HoldfastError } from '../../base/errors.ts'
import type { Progress } from '../../base/progress.ts'
import { newRandomUuid } from '../../base/random.ts'
import type { GovernedPlacement, PlacementQuestion, Refusal } from '../../directory/policy.ts'
import { describeRefusal, whatIf } from '../../directory/policy.ts'
import type { Epoch, HistoryId, NodeId, RegionName, ShardName } from '../../directory/topology.ts'
import { type Candidate, decideTarget, planPromotion, type ShardUnderFailover } from '../../failover/failover.ts'
import { waitSilent } from '../../postgres/server/follower.ts'
import { jurisdictionsOf } from '../config.ts'
import { administer } from '../administer.ts'
import type { FailoverReport } from '../operations-api.ts'
import { retire } from '../retirement.ts'
import { nodeOf } from '../shard-servers.ts'
import type { Supervisor } from '../supervisor.ts'
import type { NodeDocument, ShardDocument } from '../topology-store.ts'
import { requireRelease } from '../upgrade.ts'
import { journalRefusal } from './refusals.ts'
import { placementsOn } from './placements.ts'
import { takeBack } from './take-back.ts'
import { requireUnheld, requireUnheldOn } from './unheld.ts'

/** Promotes a follower of an embedded shard, in the order of `failover/failover.ts`. */

export interface FailoverParams {
  readonly shard: ShardName
  readonly to?: RegionName
  readonly whatIf?: boolean
}

const answerWithinMs = 2_000
/** In order, it still sends its followers the end of its log. A shard that is fenced does not wait long for that. */
const stopWithinMs = 5_000
/** Slow is not silent: a replay that moves may take long. */
const silence = { stallMs: answerWithinMs, withinMs: 30_000 } as const
const catchUpWithinMs = 30_000

/** In its turn as far as the shard can be opened without a build, and out of turn behind that. */
export async function failOver(
  supervisor: Supervisor,
  params: FailoverParams,
  progress: Progress,
): Promise<FailoverReport> {
  const { startedMs, options, open } = await supervisor.exclusively(() => promote(supervisor, params, progress))
  await open?.()
  const promoted = supervisor.topology.shard(params.shard)
  const { id, region } = nodeOf(promoted, promoted.primary)
  const { epoch, historyId } = promoted
  return {
    shard: params.shard,
    promoted: open === undefined ? null : { node: id, region, epoch, historyId },
    options,
    durationMs: Math.round(supervisor.clock.monotonicMs() - startedMs),
  }
}

/** Gives what opens the shard, where more was asked than what would be legal. */
async function promote(supervisor: Supervisor, params: FailoverParams, progress: Progress) {
  const startedMs = supervisor.clock.monotonicMs()
  const shard = requireShard(supervisor, params.shard)
  const placements = await placementsOn(supervisor, params.shard)
  const options = describeOptions(supervisor, shard, placements)
  if (params.whatIf === true) return { startedMs, options }
  if (shard.promotion === undefined) {
    await requireUnheld(supervisor, params.shard, shard)
    const targets = await legalTargets(supervisor, params, shard, placements)
    await beginOne(supervisor, params.shard, shard, targets, progress)
  }
  // One that was broken off was decided already.
  return { startedMs, options, open: await supervisor.promotions.finish(params.shard, progress) }
}

function requireShard(supervisor: Supervisor, name: ShardName): ShardDocument {
  const shard = supervisor.topology.document.shards[name]
  if (shard !== undefined) return shard
  throw new HoldfastError('unknown_shard', `no shard ${JSON.stringify(name)}`, {
    hint: `known shards are ${Object.keys(supervisor.topology.document.shards).join(', ')}`,
  })
}

/** V1, before anything is touched. A refusal is recorded with the policy and its version. */
async function legalTargets(
  supervisor: Supervisor,
  params: FailoverParams,
  shard: ShardDocument,
  placements: readonly GovernedPlacement[],
): Promise<readonly RegionName[]> {
  const regions = jurisdictionsOf(supervisor.config.regions)
  const decision = decideTarget(underFailover(shard), placements, regions, params.to)
  switch (decision.kind) {
    case 'promote':
      return decision.regions
    case 'no_follower':
      throw new HoldfastError('node_unavailable', `${params.shard} has no follower in ${decision.region}`, {
        hint: `ask with: holdfast failover ${params.shard} --what-if`,
      })
    case 'refused':
      return refuse(supervisor, params.shard, [decision])
    case 'none_legal':
      // With its primary gone and nowhere legal to go, the shard serves what the policies say until one is back.
      if (!supervisor.servers.isRunning(shard.primary)) {
        await supervisor.topology.replaceShard(params.shard, { ...shard, state: 'lost' })
      }
      return refuse(supervisor, params.shard, decision.refused)
  }
}

async function refuse(
  supervisor: Supervisor,
  name: ShardName,
  refused: readonly { region: RegionName; refusals: readonly Refusal[] }[],
): Promise<never> {
  const reasons = refused.flatMap(({ region, refusals }) =>
    refusals.map((one) => describeRefusal(authorityIn(region), one)),
  )
  const detail = { shard: name, refused: refused.map(({ region }) => region), reasons }
  await journalRefusal(supervisor, { operation: 'failover', ...detail })
  throw new HoldfastError('residency_denied', reasons.join('; ') || `no region is legal for ${name}`, {
    hint: `ask for the legal options with: holdfast failover ${name} --what-if`,
    detail,
  })
}

const authorityIn = (region: RegionName): PlacementQuestion => ({ holding: 'authority', region })

async function beginOne(
  supervisor: Supervisor,
  name: ShardName,
  shard: ShardDocument,
  targets: readonly RegionName[],
  progress: Progress,
): Promise<void> {
  const { topology, servers } = supervisor
  const wasRunning = servers.isRunning(shard.primary)
  progress({ step: 'fence', detail: `${name} takes no more traffic` })
  await topology.replaceShard(name, { ...shard, state: 'fenced' })
  try {
    const begun = await beginPromotion(supervisor, name, shard, targets, progress)
    // From here on it only goes forward, also after a crash.
    await topology.replaceShard(name, begun)
  } catch (error) {
    // Why nothing was promoted is what the caller has to hear, whatever becomes of this.
    await takeBack(supervisor, name, { shard, wasRunning }, progress)
    throw error
  }
}

/** V2, V3, V8: stops the old primary, and chooses whom to promote. Nothing that it does cannot be taken back. */
async function beginPromotion(
  supervisor: Supervisor,
  name: ShardName,
  shard: ShardDocument,
  targets: readonly RegionName[],
  progress: Progress,
): Promise<ShardDocument> {
  const old = nodeOf(shard, shard.primary)
  const followers = shard.nodes.filter(({ id }) => id !== old.id)
  await supervisor.servers.stop(old.id, 'fast', stopWithinMs)
  progress({ step: 'stop receiving', detail: followers.map(({ id }) => id).join(', ') })
  const candidates = await Promise.all(followers.map((node) => stopReceiving(supervisor, name, shard, node)))
  const plan = planPromotion(candidates, underFailover(shard).acknowledgements, targets)
  if (plan.kind !== 'promote') {
    throw new HoldfastError('node_unavailable', `${name}: no promotion is safe: ${describeUnsafe(plan)}`, {
      hint: 'bring a follower back, or restore from the archive',
    })
  }
  const target = nodeOf(shard, plan.promote)
  if (plan.source !== plan.promote) {
    await catchUp(supervisor, name, shard, { source: nodeOf(shard, plan.source), target })
  }
  const { epoch, rows } = await administer(supervisor.shardServers.adminTarget(target), async (admin) => {
    // Behind here there is no way back, and functions of another release would have to go on.
    await requireRelease(admin, name, supervisor.release)
    const lsn = 'select pg_last_wal_replay_lsn()::text as lsn'
    return {
      epoch: await requireUnheldOn(supervisor, admin, name, shard),
      rows: (await admin.query<{ lsn: string }>(lsn, [], answerWithinMs)).rows,
    }
  })
  const answered = (id: NodeId) => candidates.some((one) => one.id === id && one.received !== null)
  const others = followers.filter(({ id }) => id !== target.id)
  return {
    ...shard,
    epoch: (epoch + 1) as Epoch,
    historyId: newRandomUuid() as HistoryId,
    state: 'fenced',
    primary: target.id,
    nodes: [target, ...others.filter(({ id }) => answered(id))],
    promotion: { forkLsn: present(rows[0], 'one row').lsn },
    // What did not answer may have what the new history does not: like the old primary it is built anew.
    ...retire(shard, [old, ...others.filter(({ id }) => !answered(id))]),
  }
}

/** V2: the follower listens to nobody any more; what it has flushed and replayed is final. */
async function stopReceiving(
  supervisor: Supervisor,
  name: ShardName,
  shard: ShardDocument,
  node: NodeDocument,
): Promise<Candidate> {
  const counted = supervisor.shardServers.counts(name, shard, node)
  const candidate = { id: node.id, region: node.region, counted }
  if (!supervisor.servers.isRunning(node.id)) return { ...candidate, received: null }
  try {
    await supervisor.shardServers.detach(node)
    const target = supervisor.shardServers.adminTarget(node)
    return { ...candidate, received: await waitSilent(target, silence, supervisor.clock) }
  } catch {
    // Whoever does not answer is not counted as having stopped; the plan refuses when too few have.
    return { ...candidate, received: null }
  }
}

/** V3: the legal target fetches what a more advanced follower has. */
async function catchUp(
  supervisor: Supervisor,
  name: ShardName,
  shard: ShardDocument,
  { source, target }: { readonly source: NodeDocument; readonly target: NodeDocument },
): Promise<void> {
  await supervisor.shardServers.attach(source, target)
  const { clock, shardServers } = supervisor
  const wanted = await administer(shardServers.adminTarget(source), (admin) =>
    admin.query<{ lsn: string }>('select pg_last_wal_replay_lsn()::text as lsn'),
  )
  const deadline = clock.monotonicMs() + catchUpWithinMs
  await administer(shardServers.adminTarget(target), async (admin) => {
    for (;;) {
      const { rows } = await admin.query<{ reached: boolean }>(
        'select pg_last_wal_replay_lsn() >= $1::pg_lsn as reached',
        [wanted.rows[0]?.lsn],
      )
      if (rows[0]?.reached === true) return
      if (clock.monotonicMs() > deadline) {
        throw new HoldfastError('node_unavailable', `${target.id} did not catch up with ${source.id}`)
      }
      await clock.sleep(10)
    }
  })
  await shardServers.detach(target)
  await shardServers.tidySlots(name, shard, source)
}

function underFailover(shard: ShardDocument): ShardUnderFailover {
  const { id, region } = nodeOf(shard, shard.primary)
  return {
    durability: shard.durability,
    acknowledgements: shard.durability === 'quorum' ? 1 : 0,
    primary: { id, region },
    followers: shard.nodes.filter((node) => node.id !== id),
  }
}

function describeOptions(
  supervisor: Supervisor,
  shard: ShardDocument,
  placements: readonly GovernedPlacement[],
): FailoverReport['options'] {
  const followers = shard.nodes.filter(({ id }) => id !== shard.primary)
  const { legal, refused } = whatIf(placements, followers, jurisdictionsOf(supervisor.config.regions))
  const elsewhere = [...supervisor.config.regions.keys()].filter(
    (region) => !followers.some((node) => node.region === region) && region !== nodeOf(shard, shard.primary).region,
  )
  const illegal = elsewhere.flatMap((region) => {
    const decision = decideTarget(
      { durability: shard.durability, acknowledgements: 0, primary: nodeOf(shard, shard.primary), followers },
      placements,
      jurisdictionsOf(supervisor.config.regions),
      region,
    )
    return decision.kind === 'refused' ? [{ region, followers: [] as NodeId[], refusals: decision.refusals }] : []
  })
  return {
    legal,
    refused: [...refused, ...illegal].map(({ region, followers: here, refusals }) => ({
      region,
      followers: here,
      reasons: refusals.map((refusal) => describeRefusal(authorityIn(region), refusal)),
    })),
  }
}

function describeUnsafe(plan: { kind: 'unsafe'; answered: number; needed: number } | { kind: 'no_target' }): string {
  if (plan.kind === 'no_target') return 'no follower in a legal region answers'
  return `${plan.answered} followers answer, and ${plan.needed} must, so that no acknowledged commit is left behind`
}
