import { HoldfastError } from '../base/errors.ts'
import { newRandomUuid } from '../base/random.ts'
import type { HistoryId } from '../directory/topology.ts'
import { checkEverything } from './checks.ts'
import type { FencedShard } from './cutover-fence.ts'
import { drainAll, fenceAll, requireFreeTimelines, settleAll } from './cutover-fence.ts'
import type { CutoverFleet } from './cutover-fleet.ts'
import { reopen, standingsOf, toFenced } from './cutover-fleet.ts'
import type { CutoverDecision } from './cutover-journal.ts'
import { dropJournal, loadJournal, storeJournal } from './cutover-journal.ts'
import type { Compensation, ShardCutover, ShardStanding } from './cutover-plan.ts'
import { compensationsFor, leftOutOf, planCutover, requireNoLoss } from './cutover-plan.ts'
import { retire, switchOver } from './cutover-switch.ts'
import type { Gate } from './drill-report.ts'
import { checkClasses } from './drill-report.ts'
import type { Environment } from './environment.ts'
import { EnvironmentRegistry } from './environment.ts'
import { startEnvironment } from './environment-servers.ts'
import { requireAccepted } from './exclusion.ts'
import { Gates } from './gates.ts'
import type { RecoveryContext } from './recovery.ts'
import { decideAndRedo } from './replay.ts'
import type { HistoryPlan } from './restore-plan.ts'
import { freeze, planCatchUp } from './restore-plan.ts'
import type { Servers } from './restore-shard.ts'
import { serverOf } from './restore-shard.ts'

/**
 * Makes a restored environment the fleet (R9).
 *
 *   1  Catch up: what came since the restore is redone while the fleet still serves, so that the rest is short.
 *   2  Fence every shard at its data, settle what is prepared, wait until the archives have every commit.
 *   3  Redo the rest, and check the environment as a restore is checked.
 *   4  Switch: a new history on each shard that lost something, its servers into the topology, followers built. A shard
 *      that lost nothing goes on as it is.
 *
 * Up to the end of 3 any failure opens the fleet again as it was. From 4 on it only goes forward: a cutover that was broken
 * off is run again, and finds in its journal what was decided.
 *
 * HAZARD: an administrator's write that comes between the fence and the stop of the old servers is not held by the
 * fence and not in the archive's end.
 *
 * Each shard of the fleet is replaced only as it was fenced: one that somebody opened meanwhile is left alone, and so is one
 * that has gone on since it was replaced.
 */

export interface CutoverReport {
  readonly environment: string
  readonly shards: readonly ShardCutover[]
  /** Names of what is no longer in history. */
  readonly leftOut: readonly string[]
  readonly compensations: readonly Compensation[]
  readonly gates: readonly Gate<CutoverGate>[]
}

export const cutoverGates = ['catch up', 'fence', 'drain', 'redo', 'verify', 'switch', 'open'] as const

export type CutoverGate = (typeof cutoverGates)[number]

export interface CutoverRequest {
  readonly environment: string
  /** Of an environment that ends at its target, everything behind it is given up; of a shard that is gone, what its archive lacks. */
  readonly acceptLoss?: boolean
}

/**
 * Throws `check_failed`, `redo_conflict`, `restore_unreachable`, `node_unavailable`: the fleet is open as before. After the
 * switch has begun, throws what failed; run it again.
 */
export async function cutover(
  context: RecoveryContext,
  fleet: CutoverFleet,
  request: CutoverRequest,
): Promise<CutoverReport> {
  const registry = new EnvironmentRegistry(context.environmentsDir)
  const folder = registry.folderOf(request.environment)
  const environment = await registry.load(request.environment)
  const gates = new Gates(cutoverGates, context.clock, context.progress)
  const known = await loadJournal(folder)
  const decision =
    known === undefined || known.state === 'fencing'
      ? await prepare(context, fleet, environment, request, gates, known?.standings)
      : known
  if (known?.state !== 'done') {
    await switchOver(context, fleet, environment, decision, gates)
    await retire(context, environment, decision)
    await registry.store({ ...environment, state: 'adopted' })
  }
  // At the end, and whenever it is asked again: what was on its way when its shard was fenced is journalled when it is answered.
  const compensations = compensationsFor(decision.leftOutIds, await context.deliveries())
  await storeJournal(folder, { ...decision, state: 'done', compensations })
  const { shards, leftOut } = decision
  return { environment: environment.id, shards, leftOut, compensations, gates: gates.report() }
}

/** Steps 1 to 3. Opens the fleet again when one of them fails. */
async function prepare(
  context: RecoveryContext,
  fleet: CutoverFleet,
  environment: Environment,
  request: CutoverRequest,
  gates: Gates<CutoverGate>,
  fencing: readonly ShardStanding[] | undefined,
): Promise<CutoverDecision> {
  if (environment.state !== 'restored') {
    throw new HoldfastError('check_failed', `environment ${environment.id} is ${environment.state}, not restored`)
  }
  const folder = new EnvironmentRegistry(context.environmentsDir).folderOf(environment.id)
  const acceptLoss = request.acceptLoss === true
  const names = environment.shards.map(({ shard }) => shard)
  const standNow = () => standingsOf(fleet, names, { acceptLoss, fencing })
  standNow()
  const servers = await startEnvironment(context, environment)
  const standings = await gates.pass('catch up', async () => {
    const plan = await planNow(context, environment)
    await requireNoLoss(plan, acceptLoss)
    await requireFreeTimelines(context, servers)
    const { detail } = await decideAndRedo(context, plan, servers)
    // Again: that may have taken minutes, and who ended meanwhile is brought back only when the cutover has ended.
    const value = standNow()
    const places = value.map(({ shard, isAlive }) => {
      const target = isAlive
        ? fleet.standing(shard).primary
        : context.host.adminTarget(serverOf(servers, shard).address)
      return { shard, isAlive, target }
    })
    await fleet.requireRolledOut(places)
    return { value, detail }
  })
  await storeJournal(folder, { state: 'fencing', standings })
  const fenced = standings.filter(({ isAlive }) => isAlive).map((one) => toFenced(fleet, one))
  try {
    const plan = await standStill(context, fenced, environment, servers, gates)
    await requireNoLoss(plan, acceptLoss)
    const leftOut = await leftOutOf(plan)
    const shards = planCutover(plan, standings, () => newRandomUuid() as HistoryId)
    const decision: CutoverDecision = {
      standings,
      shards,
      leftOut: leftOut.names,
      leftOutIds: leftOut.ids,
    }
    await storeJournal(folder, { ...decision, state: 'switching' })
    return decision
  } catch (error) {
    await goBack(fleet, fenced, folder)
    throw error
  }
}

/** Steps 2 and 3: afterwards the environment has all that the fleet ever acknowledged, but what is left out. */
async function standStill(
  context: RecoveryContext,
  fenced: readonly FencedShard[],
  environment: Environment,
  servers: Servers,
  gates: Gates<CutoverGate>,
): Promise<HistoryPlan> {
  const { host } = context
  const homes = new Map(
    environment.shards.map(({ shard }) => [
      shard,
      fenced.find((one) => one.shard === shard)?.target ?? host.adminTarget(serverOf(servers, shard).address),
    ]),
  )
  await gates.pass('fence', async () => ({ value: undefined, detail: await fenceAll(context, fenced) }))
  await gates.pass('drain', async () => {
    const settled = await settleAll(context, fenced, homes)
    return { value: undefined, detail: `${settled}; ${await drainAll(context, fenced)}` }
  })
  const plan = await gates.pass('redo', async () => {
    const value = await planNow(context, environment)
    const { detail } = await decideAndRedo(context, value, servers)
    return { value, detail }
  })
  await gates.pass('verify', async () => {
    const checks = await checkEverything(context, plan, servers)
    const all = checkClasses.flatMap((name) => checks[name])
    const failed = all.filter(({ ok }) => !ok)
    if (failed.length === 0) return { value: undefined, detail: `${all.length} checks hold` }
    throw new HoldfastError('check_failed', `${failed.map(({ name, detail }) => `${name}: ${detail}`).join('; ')}`)
  })
  return plan
}

async function planNow(context: RecoveryContext, environment: Environment): Promise<HistoryPlan> {
  const stops = new Map(environment.shards.map(({ shard, stop }) => [shard, stop]))
  const plan = await planCatchUp(await freeze(context.archives, environment), stops)
  if (plan.exclusion !== null) requireAccepted(plan.exclusion)
  return plan
}

/**
 * Gives up a cutover that was broken off before it switched anything, and opens the fleet as it was. Throws
 * `check_failed` when it has begun to switch: then it can only be run again; `node_unavailable` when a shard could not be opened: then it
 * can be given up again.
 */
export async function abandonCutover(context: RecoveryContext, fleet: CutoverFleet, id: string): Promise<void> {
  const folder = new EnvironmentRegistry(context.environmentsDir).folderOf(id)
  const known = await loadJournal(folder)
  if (known === undefined) return
  if (known.state !== 'fencing') {
    throw new HoldfastError('check_failed', `the cutover to ${id} is ${known.state} and cannot be given up`, {
      hint: 'run the cutover again',
    })
  }
  const fenced = known.standings.filter(({ isAlive }) => isAlive).map((one) => toFenced(fleet, one))
  const closed = await goBack(fleet, fenced, folder)
  if (closed.length === 0) return
  const names = closed.map(({ shard }) => shard)
  throw new HoldfastError(
    'node_unavailable',
    `the cutover to ${id} is not given up: ${names.join(', ')} could not be opened`,
    {
      hint: 'bring its primary back, and give it up again',
      detail: { shards: names },
      cause: new AggregateError(closed.map(({ why }) => why)),
    },
  )
}

/** One after the other, since each changes the topology. Gives what cannot be opened now, which stays in the journal. */
async function goBack(
  fleet: CutoverFleet,
  fenced: readonly FencedShard[],
  folder: string,
): Promise<{ readonly shard: FencedShard['shard']; readonly why: unknown }[]> {
  const closed: { readonly shard: FencedShard['shard']; readonly why: unknown }[] = []
  for (const one of fenced) {
    const [opened] = await Promise.allSettled([reopen(fleet, one)])
    if (opened.status === 'rejected') closed.push({ shard: one.shard, why: opened.reason })
  }
  if (closed.length === 0) await dropJournal(folder)
  return closed
}
