import { rm } from 'node:fs/promises'
import { present } from '../base/assert.ts'
import { HoldfastError } from '../base/errors.ts'
import { newRandomUuid } from '../base/random.ts'
import type { HistoryId, ShardName } from '../directory/topology.ts'
import type { ConnectionTarget } from '../postgres/statement.ts'
import { withConnection } from '../postgres/postgres.ts'
import { checkEverything } from './checks.ts'
import type { FencedShard } from './cutover-fence.ts'
import { drainAll, fenceAll, requireFreeTimelines, settleAll } from './cutover-fence.ts'
import type { CutoverDecision } from './cutover-journal.ts'
import { dropJournal, loadJournal, storeJournal } from './cutover-journal.ts'
import type { ShardCutover, ShardStanding } from './cutover-plan.ts'
import { compensationsFor, fenceEpoch, leftOutIds, leftOutNames, planCutover, requireNoLoss } from './cutover-plan.ts'
import type { Gate } from './drill-report.ts'
import { checkClasses } from './drill-report.ts'
import type { Environment } from './environment.ts'
import { EnvironmentRegistry } from './environment.ts'
import { startEnvironment, startServer, stopEnvironment } from './environment-servers.ts'
import { requireAccepted } from './exclusion.ts'
import { Gates } from './gates.ts'
import type { RecoveryContext } from './recovery.ts'
import { decideAndRedo } from './replay.ts'
import type { HistoryPlan } from './restore-plan.ts'
import { freeze, planCatchUp } from './restore-plan.ts'
import type { EnvironmentServer, Servers } from './restore-shard.ts'
import { serverOf } from './restore-shard.ts'
import * as store from './restore-store.ts'

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
 */
export interface CutoverFleet {
  /** A shard as the fleet has it. */
  standing(shard: ShardName): ShardStanding & { readonly primary: ConnectionTarget }
  /** Tells everybody that the shard takes traffic where it is, at this epoch. Its data says so already. */
  reopened(shard: ShardName, epoch: ShardStanding['epoch']): Promise<void>
  /**
   * Throws `check_failed` when taking a shard in would bring it migrations of the application that these places never had; of a
   * shard that is gone, what the environment has.
   */
  requireRolledOut(
    places: readonly { readonly shard: ShardName; readonly isAlive: boolean; readonly target: ConnectionTarget }[],
  ): Promise<void>
  /**
   * Stops the shard's old servers for good and takes this one in as its primary, under the fleet's own settings, with the
   * shard still closed. Its data directory stays where it is.
   */
  adopt(adoption: Adoption): Promise<void>
  /** Builds the followers, waits until commits wait for them, and opens the shard behind a barrier. */
  open(shard: ShardName, epoch: ShardStanding['epoch']): Promise<void>
}

export interface Adoption {
  readonly shard: ShardName
  readonly epoch: ShardStanding['epoch']
  readonly historyId: HistoryId
  readonly server: EnvironmentServer
}

export interface CutoverReport {
  readonly environment: string
  readonly shards: readonly ShardCutover[]
  /** Names of what is no longer in history. */
  readonly leftOut: readonly string[]
  readonly compensations: CutoverDecision['compensations']
  readonly gates: readonly Gate<CutoverGate>[]
}

export const cutoverGates = ['catch up', 'fence', 'drain', 'redo', 'verify', 'switch', 'open'] as const

export type CutoverGate = (typeof cutoverGates)[number]

export interface CutoverRequest {
  readonly environment: string
  /** Of an environment that ends at its target: everything behind it is given up. */
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
    await storeJournal(folder, { ...decision, state: 'done' })
  }
  const { shards, leftOut, compensations } = decision
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
  const servers = await startEnvironment(context, environment)
  await gates.pass('catch up', async () => {
    const plan = await planNow(context, environment)
    requireNoLoss(plan, request.acceptLoss === true)
    await requireFreeTimelines(context, servers)
    const detail = await decideAndRedo(context, plan, servers)
    const places = environment.shards.map(({ shard }) => {
      const { isAlive, primary } = fleet.standing(shard)
      const target = isAlive ? primary : context.host.adminTarget(serverOf(servers, shard).address)
      return { shard, isAlive, target }
    })
    await fleet.requireRolledOut(places)
    return { value: undefined, detail }
  })
  const standings = fencing ?? environment.shards.map(({ shard }) => standingOf(fleet, shard))
  await storeJournal(folder, { state: 'fencing', standings })
  const fenced = standings.filter(({ isAlive }) => isAlive).map((one) => toFenced(fleet, one))
  try {
    const plan = await standStill(context, fenced, environment, servers, gates)
    requireNoLoss(plan, request.acceptLoss === true)
    const shards = planCutover(plan, standings, () => newRandomUuid() as HistoryId)
    const decision: CutoverDecision = {
      standings,
      shards,
      leftOut: leftOutNames(plan),
      leftOutIds: leftOutIds(plan),
      compensations: compensationsFor(plan, await context.deliveries()),
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
    return { value, detail: await decideAndRedo(context, value, servers) }
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
  const plan = planCatchUp(await freeze(context.archives), environment, stops)
  if (plan.exclusion !== null) requireAccepted(plan.exclusion)
  return plan
}

function standingOf(fleet: CutoverFleet, name: ShardName): ShardStanding {
  const { shard, epoch, isAlive } = fleet.standing(name)
  return { shard, epoch, isAlive }
}

function toFenced(fleet: CutoverFleet, standing: ShardStanding): FencedShard {
  const { primary } = fleet.standing(standing.shard)
  return { shard: standing.shard, epoch: fenceEpoch(standing), target: primary }
}

/**
 * Gives up a cutover that was broken off before it switched anything, and opens the fleet as it was. Throws
 * `check_failed` when it has begun to switch: then it can only be run again.
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
  await goBack(fleet, fenced, folder)
}

/** One after the other, since each changes the topology. What cannot be opened now stays in the journal. */
async function goBack(fleet: CutoverFleet, fenced: readonly FencedShard[], folder: string): Promise<void> {
  let isBack = true
  for (const one of fenced) {
    const [opened] = await Promise.allSettled([reopen(fleet, one)])
    isBack &&= opened.status === 'fulfilled'
  }
  if (isBack) await dropJournal(folder)
}

async function reopen(fleet: CutoverFleet, { shard, epoch, target }: FencedShard): Promise<void> {
  const isOpen = await withConnection(target, (admin) => store.reopenShard(admin, epoch))
  // One that was not fenced yet goes on at the epoch that everybody knows.
  if (isOpen) await fleet.reopened(shard, epoch)
}

/** Step 4. Every part of it may have been done before. */
async function switchOver(
  context: RecoveryContext,
  fleet: CutoverFleet,
  environment: Environment,
  { standings, shards, leftOutIds: left }: CutoverDecision,
  gates: Gates<CutoverGate>,
): Promise<void> {
  const switched = shards.flatMap((one) => (one.kind === 'switch' ? [one] : []))
  await gates.pass('switch', async () => {
    for (const one of switched) {
      await context.onStep('cutover switch', { shard: one.shard })
      if (fleet.standing(one.shard).epoch === one.epoch) continue
      const place = present(
        environment.shards.find(({ shard }) => shard === one.shard),
        'the environment has the shard',
      )
      const server = await startServer(context, place)
      await withConnection(context.host.adminTarget(server.address), async (admin) => {
        await store.openHistory(admin, { ...one, fork: place.stop, leftOut: left })
        await store.rememberEpochs(admin, shards)
        await store.dropMarkers(admin)
      })
      await fleet.adopt({ shard: one.shard, epoch: one.epoch, historyId: one.historyId, server })
    }
    return { value: undefined, detail: `${switched.length} of ${shards.length} shards` }
  })
  await gates.pass('open', async () => {
    for (const { kind, shard, epoch } of shards) {
      await context.onStep('cutover open', { shard })
      if (kind === 'switch') await fleet.open(shard, epoch)
      else {
        const standing = present(
          standings.find((one) => one.shard === shard),
          'it stood somewhere',
        )
        const kept = toFenced(fleet, standing)
        await withConnection(kept.target, (admin) => store.rememberEpochs(admin, shards))
        await reopen(fleet, kept)
      }
    }
    return { value: undefined, detail: 'every shard takes traffic' }
  })
}

/** What the fleet did not take in of the environment goes. */
async function retire(context: RecoveryContext, environment: Environment, decision: CutoverDecision): Promise<void> {
  const taken = new Set(decision.shards.flatMap(({ kind, shard }) => (kind === 'switch' ? [shard] : [])))
  const left = environment.shards.filter(({ shard }) => !taken.has(shard))
  await stopEnvironment(context, { ...environment, shards: left })
  for (const { dataDir } of left) await rm(dataDir, { recursive: true, force: true })
  for (const { walDir } of environment.shards) await rm(walDir, { recursive: true, force: true })
}
