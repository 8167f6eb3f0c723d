import { systemClock } from '../../src/base/clock.ts'
import type { Fault } from './fault.ts'
import { nothing } from './fault.ts'
import { clockFaults, gatewayFaults } from './gateway-faults.ts'
import { backendFaults, serverFaults } from './server-faults.ts'

/** Every fault that `--fault` may name, made anew for each cell. */
export function faultsOf(): readonly Fault[] {
  return [
    { name: 'none', inject: () => Promise.resolve(true), heal: nothing },
    ...serverFaults(),
    ...backendFaults(),
    ...gatewayFaults(),
    ...clockFaults(),
    mix(),
  ]
}

export function faultOf(name: string): Fault {
  const fault = faultsOf().find((one) => one.name === name)
  if (fault === undefined) throw new Error(`there is no fault ${name}`)
  return fault
}

const apartMs = 400

/**
 * Several of them at once, of different kinds, one a while after the other. What ends commits comes first, while there are
 * some: a shard refuses those by a clock that jumped. Those that only a fleet that answers can show come before those that
 * silence it; healed in reverse.
 */
function mix(): Fault {
  let under: Fault[] = []
  return {
    name: 'mix',
    inject: async (scene) => {
      const kinds = [backendFaults(), clockFaults(), gatewayFaults(), serverFaults()]
      const without = scene.below(kinds.length)
      under = []
      let seen = true
      for (const [at, kind] of kinds.entries()) {
        const fault = kind[scene.below(kind.length)]
        if (at === without || fault === undefined) continue
        under.push(fault)
        seen = (await fault.inject(scene)) && seen
        await systemClock.sleep(scene.below(apartMs))
      }
      return seen
    },
    heal: async (scene) => {
      for (const fault of under.toReversed()) await fault.heal(scene)
    },
  }
}
