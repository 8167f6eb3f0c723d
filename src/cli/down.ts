import { systemClock } from '../base/clock.ts'
import { HoldfastError } from '../base/errors.ts'
import { ControlClient } from '../fleet/control.ts'
import { fleetHome } from '../fleet/home.ts'
import { requireSupervisor } from '../fleet/registry.ts'
import { lockHolder } from '../fleet/supervisor-lock.ts'
import { progressLine } from './output.ts'

/** Servers flush what they hold before they stop; a hung one is ended by its supervisor long before this. */
const stopWithinMs = 120_000
const pollMs = 50

/**
 * Stops the fleet that runs on a data directory. Resolves once the directory is free, so that `up` may follow at once.
 * Throws `fleet_not_running`, and `fleet_locked` when the fleet is a part of another program.
 */
export async function down(dataDir: string): Promise<{ stopped: true }> {
  const { controlSocket, pid } = await requireSupervisor(dataDir)
  const client = await ControlClient.connect(controlSocket)
  try {
    await client.call('stop', {}, progressLine)
  } finally {
    client.close()
  }
  const { lockFile } = fleetHome(dataDir)
  const deadline = systemClock.monotonicMs() + stopWithinMs
  // The lock is given back last.
  while ((await lockHolder(lockFile))?.pid === pid) {
    if (systemClock.monotonicMs() > deadline) {
      throw new HoldfastError('server_failed', `process ${pid} still holds ${dataDir} after ${stopWithinMs} ms`, {
        hint: `its own messages say why; as a last resort end it, and the next holdfast up clears what it leaves`,
      })
    }
    await systemClock.sleep(pollMs)
  }
  return { stopped: true }
}
