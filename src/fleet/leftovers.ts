import { readdir } from 'node:fs/promises'
import { basename } from 'node:path'
import type { Progress } from '../base/progress.ts'
import type { Environment } from '../recovery/environment.ts'
import { EnvironmentRegistry } from '../recovery/environment.ts'
import type { FleetHome } from './home.ts'
import type { FleetServers } from './servers.ts'
import type { TopologyDocument } from './topology-store.ts'

/**
 * Folders of servers that nobody names any more (F5). Whoever gives a node up tells the topology first and removes its folder
 * afterwards, and a folder is made before somebody names it: a supervisor that is killed in between leaves rows of tenants
 * where nobody looks for them, beside those of a history that the fleet has left, for ever.
 */
export interface LeftoverParts {
  readonly home: Pick<FleetHome, 'serversDir' | 'environmentsDir'>
  readonly servers: Pick<FleetServers, 'removeDirectory'>
  readonly progress: Progress
}

/** At a start, when nothing runs below the servers' folder. A failure is told and ends no start. */
export async function removeLeftovers(
  { home, servers, progress }: LeftoverParts,
  document: TopologyDocument,
): Promise<void> {
  try {
    // All of them, or nothing is removed: one that cannot be read would make its folders nobody's.
    const environments = await new EnvironmentRegistry(home.environmentsDir).list()
    const entries = await readdir(home.serversDir, { withFileTypes: true })
    const folders = entries.filter((entry) => entry.isDirectory()).map(({ name }) => name)
    for (const folder of findLeftovers(folders, document, environments)) {
      progress({ step: 'remove', detail: `${folder}, which belongs to no node and no environment` })
      await servers.removeDirectory(folder)
    }
  } catch (error) {
    progress({ step: 'alarm', detail: `what was left below ${home.serversDir} was not removed: ${String(error)}` })
  }
}

/** What a fleet calls the folders of nodes, of followers that are being built, and of restored environments. */
const givenName = /^(?:.+~.+\.\d+(?:\.building)?|restore-[0-9a-f]{8}-\d+(?:-wal)?)$/

/** Of the folders those that a fleet gives such names, and that neither the topology nor an environment has. */
export function findLeftovers(
  folders: readonly string[],
  { shards }: Pick<TopologyDocument, 'shards'>,
  environments: readonly Pick<Environment, 'state' | 'shards'>[],
): string[] {
  // A successor that is not in the topology yet is built from nothing.
  const nodes = Object.values(shards).flatMap(({ nodes: standing, retired = [] }) => [
    ...standing,
    ...retired.map(({ node }) => node),
  ])
  // What an adopted one had is the topology's.
  const held = environments.filter(({ state }) => state !== 'adopted').flatMap((one) => one.shards)
  const named = new Set([
    ...nodes.map(({ folder }) => folder),
    ...held.flatMap(({ dataDir, walDir }) => [basename(dataDir), basename(walDir)]),
  ])
  return folders.filter((folder) => givenName.test(folder) && !named.has(folder))
}
