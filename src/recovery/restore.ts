import { present } from '../base/assert.ts'
import { formatWallMs } from '../base/clock.ts'
import { HoldfastError } from '../base/errors.ts'
import { newRandomUuid } from '../base/random.ts'
import { decidePlacement, describeRefusal } from '../directory/policy.ts'
import type { ShardName } from '../directory/topology.ts'
import { wallMsOfHlc } from '../hlc/hlc.ts'
import { lastWithin } from './position.ts'
import { formatLsn } from '../postgres/lsn.ts'
import { checkEverything } from './checks.ts'
import type { Checks, DrillReport, GateName } from './drill-report.ts'
import { checkClasses, excludedOf, gateNames, verdictOf } from './drill-report.ts'
import { storeReport } from './drill-store.ts'
import type { Environment, EnvironmentShard } from './environment.ts'
import { EnvironmentRegistry } from './environment.ts'
import { stopEnvironment } from './environment-servers.ts'
import type { Exclusion } from './exclusion.ts'
import { requireAccepted } from './exclusion.ts'
import { Gates } from './gates.ts'
import type { RecoveryContext } from './recovery.ts'
import { decideAndRedo } from './replay.ts'
import type { RestorePlan, RestoreRequest, ShardPlan } from './restore-plan.ts'
import { freezeFor, planExclusion, planRestore } from './restore-plan.ts'
import type { EnvironmentServer } from './restore-shard.ts'
import { endRecovery, fetchBackup, replayToStop, serverOf } from './restore-shard.ts'
import { formatTarget } from './target.ts'

/**
 * Restores the fleet into an environment of its own and leaves a report of it. A drill is nothing else.
 *
 * Throws `restore_unreachable`, `archive_gap`, `unknown_transaction`, `redo_conflict`, `residency_denied` (never: the
 * archives, the law or the request say no), `check_failed`, `disk_full`, `server_failed`. When a gate fails the report
 * says which, and the environment's servers are stopped. A report with the verdict `failed` and no error means that the
 * restore stands and a check does not hold. One that made way throws the reason of its signal, and leaves no report: it says
 * nothing about the archives.
 */
export async function restore(context: RecoveryContext, request: RestoreRequest): Promise<DrillReport> {
  const gates = new Gates(gateNames, context.clock, context.progress)
  const plan = await gates.pass('freeze', async () => {
    const value = await planFrom(context, request)
    return { value, detail: describePlan(value) }
  })
  const registry = new EnvironmentRegistry(context.environmentsDir)
  const blank = newEnvironment(context, request)
  let environment = blank
  let checks: Checks = { storage: [], data: [], cutover: [] }
  let redone: ReadonlyMap<ShardName, number> = new Map()
  const conclude = async (state: Environment['state']) => {
    const report = reportOf(context, environment, plan, redone, gates, checks)
    environment = { ...environment, state: report.verdict === 'passed' ? state : 'failed', report }
    await registry.store(environment)
    await storeReport(context.drillsDir, report)
    return report
  }
  try {
    const servers = await build(context, plan, gates, blank, async (shards) => {
      environment = { ...blank, shards }
      await registry.store(environment)
    })
    // What follows writes, which PostgreSQL permits only now; it is replay all the same.
    redone = await gates.pass('replay', async () => {
      const replayed = await decideAndRedo(context, plan, servers)
      return { value: replayed.redone, detail: replayed.detail }
    })
    checks = await gates.pass('verify', async () => {
      await context.onStep('restore invariants', {})
      const value = await checkEverything(context, plan, servers)
      return { value, detail: describeChecks(value) }
    })
    return await conclude('restored')
  } catch (error) {
    await stopEnvironment(context, environment)
    if (context.signal?.aborted !== true) await conclude('failed')
    throw error
  }
}

/** What would be left out, dragged along and for review, without doing anything. Null without `without`. */
export async function dryRun(context: RecoveryContext, request: RestoreRequest): Promise<Exclusion | null> {
  return planExclusion(await freezeFor(request, context.archives, context.clock, context.signal))
}

async function planFrom(context: RecoveryContext, request: RestoreRequest): Promise<RestorePlan> {
  for (const shard of context.archives.keys()) requireLegal(context, shard)
  const { archives, clock, signal } = context
  const plan = await planRestore(archives, await freezeFor(request, archives, clock, signal), request)
  if (plan.exclusion !== null) requireAccepted(plan.exclusion)
  return plan
}

function requireLegal({ environmentRegions, directory, regions }: RecoveryContext, shard: ShardName): void {
  const region = present(environmentRegions.get(shard), `the environment has a region for ${shard}`)
  const question = { holding: 'replica', region } as const
  const decision = decidePlacement(question, directory.placementsOn(shard), regions)
  if (decision.allowed) return
  const reasons = decision.refusals.map((refusal) => describeRefusal(question, refusal))
  throw new HoldfastError('residency_denied', reasons.join('; ') || `${region} is not a region`, {
    hint: 'restore in a region that is legal for the data',
    detail: { shard, region },
  })
}

function newEnvironment({ clock }: RecoveryContext, { target, without, isDrill = false }: RestoreRequest): Environment {
  const id = newRandomUuid().slice(0, 8)
  const createdAt = formatWallMs(clock.wallMs())
  return { id, createdAt, state: 'restoring', target, without, shards: [], report: null, isDrill }
}

type Register = (shards: readonly EnvironmentShard[]) => Promise<void>

/** Gates 2 to 5. Everything that could be left behind is registered as soon as it exists. */
async function build(
  context: RecoveryContext,
  plan: RestorePlan,
  gates: Gates<GateName>,
  { id }: Environment,
  register: Register,
): Promise<ReadonlyMap<ShardName, EnvironmentServer>> {
  const { onStep } = context
  const servers = new Map<ShardName, EnvironmentServer>()
  const shards = await gates.pass('provision', async () => {
    const value = await provision(context, plan, id, register)
    return { value, detail: `${value.length} shards` }
  })
  await gates.pass('base backup', async () => {
    const fetched = await forEach(shards, async (place) => {
      await onStep('restore fetch', { shard: place.shard })
      return fetchBackup(context, archiveOf(context, place.shard), planOf(plan, place.shard), place)
    })
    return { value: undefined, detail: `${fetched.reduce((sum, { bytes }) => sum + bytes, 0)} bytes` }
  })
  await gates.pass('replay', async () => {
    await forEach(shards, async (place) => {
      await onStep('restore replay', { shard: place.shard })
      servers.set(place.shard, await replayToStop(context, planOf(plan, place.shard), place))
    })
    return { value: undefined, detail: 'every shard paused at its stop' }
  })
  await register(shards.map((one) => ({ ...one, address: serverOf(servers, one.shard).address })))
  await gates.pass('promote', async () => {
    const timelines = await forEach(shards, async ({ shard }) => {
      context.signal?.throwIfAborted()
      const { timeline } = await endRecovery(context, archiveOf(context, shard), serverOf(servers, shard))
      return `${shard} on timeline ${timeline}`
    })
    return { value: undefined, detail: timelines.join(', ') }
  })
  return servers
}

async function provision(
  { host, environmentRegions }: RecoveryContext,
  plan: RestorePlan,
  id: string,
  register: Register,
): Promise<EnvironmentShard[]> {
  const shards: EnvironmentShard[] = []
  for (const { shard, stop } of plan.shards.values()) {
    // Short: a socket path, which is made of the folder's name, is limited to about a hundred bytes.
    const folder = `restore-${id}-${shards.length}`
    shards.push({
      shard,
      region: present(environmentRegions.get(shard), 'was checked for the law'),
      serverId: `${id}/${shard}`,
      dataDir: await host.createDirectory(folder),
      walDir: await host.createDirectory(`${folder}-wal`),
      address: null,
      stop,
    })
    await register(shards)
  }
  return shards
}

function reportOf(
  { clock }: RecoveryContext,
  { id, createdAt }: Environment,
  plan: RestorePlan,
  redone: ReadonlyMap<ShardName, number>,
  gates: Gates<GateName>,
  checks: Checks,
): DrillReport {
  const passed = gates.report()
  const frozenMs = clock.wallMs() - gates.elapsedMs()
  return {
    id,
    takenAt: createdAt,
    target: formatTarget(plan.request.target),
    coveredThrough: String(lastWithin(plan.bound) ?? plan.reachable),
    shards: [...plan.shards.values()].map(({ shard, backup, stop }) => ({
      shard,
      backupId: backup.id,
      stopLsn: formatLsn(stop.lsn),
      redone: redone.get(shard) ?? 0,
    })),
    excluded: excludedOf(plan.exclusion),
    review: (plan.exclusion?.review ?? []).map(({ name, touches }) => ({ name, touches })),
    gates: passed,
    rtoMs: gates.elapsedMs(),
    rpoMs: Math.max(0, Math.round(frozenMs - wallMsOfHlc(plan.reachable))),
    checks,
    verdict: verdictOf(passed, checks),
  }
}

function describePlan({ request, cut, exclusion }: RestorePlan): string {
  const leftOut = [...cut.shards.values()].reduce((sum, { leftOut: here }) => sum + here, 0)
  const without = exclusion === null ? '' : `, without ${exclusion.closure.size} transactions`
  return `${formatTarget(request.target)}${without}: ${leftOut} commits are left out`
}

function describeChecks(checks: Checks): string {
  const all = checkClasses.flatMap((name) => checks[name])
  const failed = all.filter(({ ok }) => !ok).map(({ name }) => name)
  return failed.length === 0 ? `${all.length} checks hold` : `does not hold: ${failed.join(', ')}`
}

function archiveOf({ archives }: RecoveryContext, shard: ShardName) {
  return present(archives.get(shard), `${shard} has an archive`)
}

function planOf({ shards }: RestorePlan, shard: ShardName): ShardPlan {
  return present(shards.get(shard), `${shard} is in the plan`)
}

/** Waits for all, also when one fails: nothing goes on behind the caller's back. */
async function forEach<T>(
  places: readonly EnvironmentShard[],
  work: (place: EnvironmentShard) => Promise<T>,
): Promise<T[]> {
  const results = await Promise.allSettled(places.map(work))
  return results.map((result) => {
    if (result.status === 'rejected') throw result.reason
    return result.value
  })
}
