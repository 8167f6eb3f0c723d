import { HoldfastError } from '../base/errors.ts'
import type { NodeId, ShardName } from '../directory/topology.ts'
import { Connection } from '../postgres/connection.ts'
import { administer } from './administer.ts'
import type { Release } from '../postgres/release.ts'
import { nameInstalled, nameRelease, planInstallation } from '../postgres/release.ts'
import type { BegunInstallation } from '../postgres/schema.ts'
import { beginInstallation, InstallationFailure, readInstalled } from '../postgres/schema.ts'
import { summaryOf } from '../postgres/sql-statements.ts'
import { sqlState } from '../postgres/sqlstate.ts'
import type { ShardServers } from './shard-servers.ts'
import { nodeOf } from './shard-servers.ts'
import type { ShardDocument } from './topology-store.ts'

/**
 * Brings the shards of a fleet to the release of this code, before anybody is let in: docs/protocols/upgrade.md.
 *
 *   U1  A shard has the whole of a release, or the whole of the one before.
 *   U2  Nobody is let in on a node before it has the release of the code that serves, nor anywhere before every shard that is up
 *       has it.
 *   U3  What a later release was at is refused before anything is changed, and so is a shard that the release before has to
 *       finish something on.
 *   U4  A governed table is never without its rules, and has those of the release.
 *   U5  Who attaches has the release of the supervisor.
 *   U6  Who has attached to the release before is fenced: an upgrade takes the shard to its next epoch.
 */
export interface UpgradeParts {
  readonly release: Release
  readonly shardServers: ShardServers
}

const connectWithinMs = 10_000

/**
 * U3, asked of a primary. Gives the release that it is to be upgraded from, if it is. Throws `release_newer`, `upgrade_failed`,
 * `upgrade_blocked`.
 */
export async function requireUpgradable(
  { release, shardServers }: UpgradeParts,
  name: ShardName,
  shard: ShardDocument,
): Promise<string | undefined> {
  return administer(shardServers.adminTarget(nodeOf(shard, shard.primary)), async (admin) => {
    const installed = await readNoLater(admin, name, release)
    if (installed === undefined) return undefined
    if (shard.promotion !== undefined) throw blocked(name, 'a promotion is under way', installed)
    await requireSettled(admin, name, installed)
    return installed
  })
}

/** The same of a follower, on which nothing will be installed: a branch that is in doubt there may be settled long since. */
export async function requireNoLater(
  { release, shardServers }: UpgradeParts,
  name: ShardName,
  shard: ShardDocument,
  id: NodeId,
): Promise<string | undefined> {
  return administer(shardServers.adminTarget(nodeOf(shard, id)), (admin) => readNoLater(admin, name, release))
}

async function readNoLater(admin: Connection, name: ShardName, release: Release): Promise<string | undefined> {
  const installed = await readInstalled(admin)
  const installation = planInstallation(installed, release)
  switch (installation.kind) {
    case 'none needed':
      return undefined
    case 'newer':
      throw newer(name, installation.installed, release)
    case 'changed':
      throw changed(name, installation.migration)
    case 'install':
      return nameInstalled(installed)
  }
}

/**
 * U2, of a shard that was down when the others were brought to the release, or of what is promoted in its place. Throws
 * `release_differs`.
 */
export async function requireRelease(admin: Connection, name: ShardName, release: Release): Promise<void> {
  const installed = await readInstalled(admin)
  if (planInstallation(installed, release).kind === 'none needed') return
  const [has, own] = [nameInstalled(installed), nameRelease(release)]
  throw new HoldfastError('release_differs', `${name} has release ${has}, and the fleet runs ${own}`, {
    hint: 'with its primary back, start the fleet again: every shard is brought to its release then',
    detail: { shard: name, installed: has, release: own },
  })
}

/**
 * HAZARD: a prepared branch holds the tables and views it used, which a release replaces, and only gateways of the release
 * that prepared it are known to settle it rightly.
 */
async function requireSettled(admin: Connection, name: ShardName, installed: string): Promise<void> {
  const { rows } = await admin.query<{ gid: string }>(
    'select gid from pg_prepared_xacts where database = current_database() order by prepared',
  )
  if (rows.length === 0) return
  throw blocked(name, `${rows.length} branches are in doubt, first ${rows[0]?.gid}`, installed)
}

function blocked(name: ShardName, why: string, installed: string): HoldfastError {
  return new HoldfastError('upgrade_blocked', `${name} cannot be upgraded: ${why}`, {
    hint: `start it with release ${installed}, which finishes that; then stop it, and start this one`,
    detail: { shard: name },
  })
}

function newer(name: ShardName, installed: string, release: Release): HoldfastError {
  const own = nameRelease(release)
  return new HoldfastError('release_newer', `${name} was brought to release ${installed}; this is ${own}`, {
    hint: 'start it with that release or a later one: what it changed in the data cannot be taken back',
    detail: { shard: name, installed, release: own },
  })
}

function changed(name: ShardName, migration: string): HoldfastError {
  return new HoldfastError('upgrade_failed', `${name}: migration ${migration} changed after it was applied`, {
    hint: 'install a release as it was published; one that is in a database cannot be changed any more',
    detail: { shard: name, file: migration },
  })
}

/**
 * U1, on shards whose servers run: nothing is committed on any before all of them took every statement. What was committed
 * on some when a start ends is finished by the next. Tells which had something to do. Throws `upgrade_failed`.
 */
export async function upgradeShards(
  { release, shardServers }: UpgradeParts,
  shards: readonly (readonly [ShardName, ShardDocument])[],
): Promise<ShardName[]> {
  const connections: Connection[] = []
  try {
    const begun = await settled(
      shards.map(async ([name, shard]) => {
        const target = shardServers.adminTarget(nodeOf(shard, shard.primary))
        const admin = await Connection.connect(target, connectWithinMs)
        connections.push(admin)
        return { name, ...(await begin(admin, name, release)) }
      }),
    )
    await settled(begun.map(({ commit }) => commit()))
    return begun.filter(({ installation }) => installation.kind === 'install').map(({ name }) => name)
  } finally {
    for (const connection of connections) connection.release()
  }
}

/** Waits for all, also when one fails: nothing changes a shard behind the end of a start. */
export async function settled<T>(work: readonly Promise<T>[]): Promise<T[]> {
  return (await Promise.allSettled(work)).map((result) => {
    if (result.status === 'rejected') throw result.reason
    return result.value
  })
}

/** One server by itself: one that is founded, or taken in from a restore. */
export async function bringToRelease(admin: Connection, name: ShardName, release: Release): Promise<void> {
  await (await begin(admin, name, release)).commit()
}

/** Throws `release_newer` and `upgrade_failed`; the shard is as it was. */
async function begin(admin: Connection, name: ShardName, release: Release): Promise<BegunInstallation> {
  let begun: BegunInstallation
  try {
    begun = await beginInstallation(admin, release)
  } catch (error) {
    if (error instanceof InstallationFailure) throw refused(error, name, release)
    throw error
  }
  const { installation } = begun
  if (installation.kind === 'newer') throw newer(name, installation.installed, release)
  if (installation.kind === 'changed') throw changed(name, installation.migration)
  return begun
}

function refused(failure: InstallationFailure, name: ShardName, release: Release): HoldfastError {
  const { file, statement, refusal } = failure
  return new HoldfastError(
    'upgrade_failed',
    `${name}: ${file}: ${refusal.message} (SQLSTATE ${refusal.sqlState}) in: ${summaryOf(statement)}`,
    {
      hint:
        refusal.sqlState === sqlState.lockNotAvailable
          ? 'end who else is connected to the server, and start again'
          : `mend what refuses ${nameRelease(release)}, and start again; or start with the release before`,
      detail: { shard: name, file, statement, sqlState: refusal.sqlState },
      cause: failure,
    },
  )
}
