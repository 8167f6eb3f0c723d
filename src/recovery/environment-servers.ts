import type { ShardName } from '../directory/topology.ts'
import { checkRules } from './checks.ts'
import { loadJournal } from './cutover-journal.ts'
import type { Environment, EnvironmentShard } from './environment.ts'
import { EnvironmentRegistry } from './environment.ts'
import type { InvariantResult } from './invariant-check.ts'
import type { RecoveryContext } from './recovery.ts'
import type { EnvironmentServer, Servers } from './restore-shard.ts'
import { isolatedSettings, serverOf } from './restore-shard.ts'
import { HoldfastError } from '../base/errors.ts'

/** What becomes of an environment after it was restored: looked at, checked again, stopped. */

export function listEnvironments({
  environmentsDir,
}: Pick<RecoveryContext, 'environmentsDir'>): Promise<Environment[]> {
  return new EnvironmentRegistry(environmentsDir).list()
}

/** Runs the fleet's invariants on it as they are now. Throws `unknown_environment`, `check_failed` while a cutover takes it in. */
export async function checkEnvironment(context: RecoveryContext, id: string): Promise<InvariantResult[]> {
  const environment = await new EnvironmentRegistry(context.environmentsDir).load(id)
  return checkRules(context, await startEnvironment(context, environment))
}

/** The running servers of an environment; those that do not run are started, as isolated as they were. */
export async function startEnvironment(context: RecoveryContext, environment: Environment): Promise<Servers> {
  if (environment.state !== 'restored' && environment.state !== 'failed') {
    throw new HoldfastError('unknown_environment', `environment ${environment.id} is ${environment.state}`, {
      hint:
        environment.state === 'adopted'
          ? 'the fleet runs on its servers now'
          : `wait for the restore; one that was broken off goes with: holdfast restore drop ${environment.id}`,
    })
  }
  await requireNotTaken(context, environment)
  const servers = new Map<ShardName, EnvironmentServer>()
  for (const one of environment.shards) servers.set(one.shard, await startServer(context, one))
  const shards = environment.shards.map((one) => ({ ...one, address: serverOf(servers, one.shard).address }))
  await new EnvironmentRegistry(context.environmentsDir).store({ ...environment, shards })
  return servers
}

/**
 * Until a cutover has ended the environment counts as restored, and yet nodes of the fleet may run on its data directories: what
 * starts there ends them first, and what removes them removes the fleet's.
 */
async function requireNotTaken({ environmentsDir }: RecoveryContext, { id }: Environment): Promise<void> {
  const journal = await loadJournal(new EnvironmentRegistry(environmentsDir).folderOf(id))
  if (journal === undefined || journal.state === 'fencing') return
  throw new HoldfastError('check_failed', `a cutover is making environment ${id} the fleet`, {
    hint: 'run the cutover again: it goes on where it was broken off',
  })
}

/** The running server of one shard of an environment, as isolated as it was. */
export async function startServer(context: RecoveryContext, place: EnvironmentShard): Promise<EnvironmentServer> {
  const { serverId: id, dataDir, address } = place
  if (address !== null && context.host.isRunning(id)) return { id, dataDir, address }
  const settings = isolatedSettings(context, dataDir)
  return { id, dataDir, address: await context.host.start({ id, dataDir, settings }) }
}

export async function stopEnvironment({ host }: Pick<RecoveryContext, 'host'>, { shards }: Environment): Promise<void> {
  for (const { serverId } of shards) if (host.isRunning(serverId)) await host.stop(serverId, 'fast')
}
