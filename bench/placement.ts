import { chmod, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { performance } from 'node:perf_hooks'
import { openFleet } from 'holdfast'
import { configBelow } from '../examples/payledger/demo/config.ts'
import { atMost, type Figure } from './figure.ts'

/** How long PayLedger's fleet takes from nothing to its first answer, and again on the data that it has. */
export async function benchPlacement(): Promise<Figure[]> {
  const root = await mkdtemp(join(tmpdir(), 'hfb-'))
  await chmod(root, 0o755)
  try {
    const config = await configBelow(root)
    const start = async () => {
      const begun = performance.now()
      const fleet = await openFleet({ config })
      const { ready } = await fleet.status()
      const tookMs = Math.round(performance.now() - begun)
      await fleet.close()
      if (!ready) throw new Error('the fleet was opened and is not ready')
      return tookMs
    }
    const first = await start()
    const again = await start()
    return [atMost('first start', first, 'ms', 20_000), atMost('restart', again, 'ms', 6_000)]
  } finally {
    await rm(root, { recursive: true, force: true })
  }
}
