import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import type { Clock } from '../../base/clock.ts'
import { HoldfastError } from '../../base/errors.ts'
import { childrenOf, lives, processesIn, readPidFile, servesDirectory, signal, untilGone } from './processes.ts'

/**
 * What an earlier run left on a data directory, cleared before the next start.
 *
 * A supervisor that was killed leaves its server running, with settings and sockets of that run: it is stopped.
 * A server that was killed leaves backends, which end once they look up, and `postmaster.pid`.
 */
const fastWithinMs = 30_000
const immediateWithinMs = 10_000
const orphansWithinMs = 5_000

export async function clearPredecessor(dataDir: string, clock: Clock): Promise<void> {
  const file = await readPidFile(dataDir)
  if (file === undefined) return
  const living = await lives(file.pid)
  const serves = living ? await servesDirectory(file.pid, dataDir) : 'no'
  if (serves === 'yes') await stopServer(file.pid, dataDir, clock)
  await endOrphans(dataDir, clock)
  // The id belongs to another process by now. PostgreSQL takes any living process of its own user for a postmaster
  // and would refuse to start; only where we can see that nobody works in the directory may the file go.
  if (living && serves === 'no' && process.platform === 'linux')
    await rm(join(dataDir, 'postmaster.pid'), { force: true })
}

async function stopServer(pid: number, dataDir: string, clock: Clock): Promise<void> {
  try {
    for (const one of [...(await childrenOf(pid)), pid]) signal(one, 'SIGCONT')
    if (!signal(pid, 'SIGINT') || (await untilGone([pid], fastWithinMs, clock))) return
    if (!signal(pid, 'SIGQUIT') || (await untilGone([pid], immediateWithinMs, clock))) return
  } catch (error) {
    throw new HoldfastError('server_failed', `process ${pid} of another user serves ${dataDir}`, { cause: error })
  }
  throw new HoldfastError('server_failed', `process ${pid} serves ${dataDir} and does not stop`)
}

/** Backends without a postmaster cannot commit any more, and hold the shared memory that the next server needs. */
async function endOrphans(dataDir: string, clock: Clock): Promise<void> {
  const orphans = await processesIn(dataDir)
  if (await untilGone(orphans, orphansWithinMs, clock)) return
  for (const pid of orphans) signal(pid, 'SIGKILL')
  if (await untilGone(orphans, orphansWithinMs, clock)) return
  throw new HoldfastError('server_failed', `processes ${orphans.join(', ')} of an earlier server hold ${dataDir}`)
}
