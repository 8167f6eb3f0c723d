import { lstat, rm } from 'node:fs/promises'
import { HoldfastError } from '../base/errors.ts'
import { loadJournal } from './cutover-journal.ts'
import { listReports } from './drill-store.ts'
import type { Environment } from './environment.ts'
import { EnvironmentRegistry } from './environment.ts'
import { stopEnvironment } from './environment-servers.ts'
import type { RecoveryContext } from './recovery.ts'

/** The end of an environment that nobody needs any more: what it holds is as regulated as what the fleet does (R11). */

export interface DropReport {
  readonly environment: string
  /** The servers that ran. */
  readonly stopped: readonly string[]
  /** The folders that were there, by their paths. */
  readonly removed: readonly string[]
}

/**
 * Stops its servers and removes what it holds; its report stays. Of one that is restored, of one that failed, and of one whose
 * restore was broken off. One that was broken off itself is done again, and one that was dropped has nothing left.
 *
 * Throws `unknown_environment`, and `environment_held` where the fleet runs on it or a cutover to it is under way.
 */
export async function dropEnvironment(
  context: Pick<RecoveryContext, 'host' | 'environmentsDir' | 'drillsDir'>,
  id: string,
): Promise<DropReport> {
  const registry = new EnvironmentRegistry(context.environmentsDir)
  const isKnown = (await registry.list()).some((one) => one.id === id)
  if (!isKnown && (await listReports(context.drillsDir)).some((report) => report.id === id)) {
    return { environment: id, stopped: [], removed: [] }
  }
  const environment = await registry.load(id)
  await requireFree(environment, registry.folderOf(id))
  const stopped = environment.shards.map(({ serverId }) => serverId).filter((one) => context.host.isRunning(one))
  await stopEnvironment(context, environment)
  const removed: string[] = []
  for (const folder of environment.shards.flatMap(({ dataDir, walDir }) => [dataDir, walDir])) {
    if (await isThere(folder)) removed.push(folder)
    await rm(folder, { recursive: true, force: true })
  }
  // Last: what it names can be found until it is gone.
  await registry.remove(id)
  return { environment: id, stopped, removed }
}

async function requireFree({ id, state }: Environment, folder: string): Promise<void> {
  if (state === 'adopted') {
    throw new HoldfastError('environment_held', `environment ${id} is adopted`, {
      hint: 'the fleet runs on its servers now',
    })
  }
  const journal = await loadJournal(folder)
  if (journal === undefined) return
  const again = `run it again: holdfast cutover ${id}`
  throw new HoldfastError('environment_held', `a cutover to environment ${id} is ${journal.state}`, {
    hint: journal.state === 'fencing' ? `${again}, or give it up with --abandon behind that` : again,
  })
}

async function isThere(path: string): Promise<boolean> {
  try {
    await lstat(path)
    return true
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return false
    throw error
  }
}
