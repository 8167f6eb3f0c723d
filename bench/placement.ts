import { performance } from 'node:perf_hooks'
import { openFleet } from 'holdfast'
import { configBelow } from '../examples/payledger/demo/config.ts'
import { atMost, type Figure } from './figure.ts'
import { unlessInterrupted } from './interrupt.ts'
import { withFolder } from './stand.ts'

/** How long PayLedger's fleet takes from nothing to ready, and again on the data that it has. */
export function benchPlacement(progress: (text: string) => void): Promise<Figure[]> {
  return withFolder(async (root) => {
    const config = await configBelow(root)
    const start = async (what: string) => {
      progress(what)
      const begun = performance.now()
      const fleet = await openFleet({ config })
      try {
        const { ready } = await unlessInterrupted(fleet.status())
        const tookMs = Math.round(performance.now() - begun)
        if (!ready) throw new Error('the fleet was opened and is not ready')
        return tookMs
      } finally {
        await fleet.close()
      }
    }
    const first = await start('first start')
    const again = await start('restart')
    return [atMost('first start', first, 'ms', 20_000), atMost('restart', again, 'ms', 6_000)]
  })
}
