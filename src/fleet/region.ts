import { HoldfastError } from '../base/errors.ts'
import type { RegionName } from '../directory/topology.ts'
import type { FleetConfig } from './config.ts'

/** A region by its name; the first one of the configuration without a name. Throws `argument_invalid`. */
export function regionOf(config: Pick<FleetConfig, 'regions'>, name: string | undefined): RegionName {
  const regions = [...config.regions.keys()]
  const found = name === undefined ? regions[0] : regions.find((region) => region === name)
  if (found !== undefined) return found
  throw new HoldfastError('argument_invalid', `no region ${JSON.stringify(name)}`, {
    hint: `known regions are ${regions.join(', ')}`,
  })
}
