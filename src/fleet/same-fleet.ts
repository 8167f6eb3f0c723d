import type { RegionName } from '../directory/topology.ts'
import { birthRegion } from '../directory/directory.ts'
import type { FleetConfig, ShardConfig } from './config.ts'
import type { ConfigProblem } from './config-problem.ts'
import { configError } from './config-problem.ts'
import type { ShardDocument, TopologyDocument } from './topology-store.ts'

/**
 * Holds the configuration of a start against what the fleet is. The simple way, to take up what a start can take up and to pass
 * over the rest, has a fleet that runs by half of its file: branches that are prepared under a name that nobody looks for,
 * commits that wait for followers that do not exist, policies that the file no longer says. What a start cannot take up it
 * refuses, with the key, before anything is changed. Here is what the topology knows; what the rows know is in
 * `same-placements.ts`.
 */

/** Throws `config_invalid` with every difference; a retry needs another configuration. */
export function requireSameFleet(config: FleetConfig, document: TopologyDocument): void {
  refuseProblems([
    ...nameProblems(config, document),
    ...regionProblems(config, document),
    ...shardProblems(config, document),
  ])
}

export function refuseProblems(problems: readonly ConfigProblem[]): void {
  if (problems.length === 0) return
  throw configError({ label: 'configuration', value: null, locate: () => null }, problems)
}

const orAnew = 'or start on a new data directory'

function nameProblems({ fleet }: FleetConfig, document: TopologyDocument): ConfigProblem[] {
  if (fleet === document.fleet) return []
  const message = `is ${fleet}, and the fleet on this data directory is ${document.fleet}`
  const hint = `write ${document.fleet}, which its tokens and prepared transactions carry, ${orAnew}`
  return [{ path: ['fleet'], at: 'value', message, hint }]
}

/** One that is only added is taken up (`added-regions.ts`). */
function regionProblems({ regions }: FleetConfig, document: TopologyDocument): ConfigProblem[] {
  const known = new Map(Object.entries(document.regions))
  const changed = [...regions.values()].flatMap(({ name, jurisdiction }): ConfigProblem[] => {
    const before = known.get(name)
    if (before === undefined || before === jurisdiction) return []
    const message = `is ${jurisdiction}, and the fleet has ${before}`
    return [{ path: ['regions', name, 'jurisdiction'], at: 'value', message, hint: `write ${before}, ${orAnew}` }]
  })
  const gone = [...known].filter(([name]) => !regions.has(name as RegionName))
  const lacking = gone.map(([name, jurisdiction]): ConfigProblem => {
    const hint = `write ${name}: { jurisdiction: ${jurisdiction} }, ${orAnew}`
    return { path: ['regions', name], at: 'key', message: 'is missing, and the fleet has it', hint }
  })
  return [...changed, ...lacking]
}

function shardProblems({ shards }: FleetConfig, document: TopologyDocument): ConfigProblem[] {
  return [...shards.values()].flatMap((shard) => {
    const standing = document.shards[shard.name]
    return standing === undefined ? [] : [...followerProblems(shard, standing), ...surviveProblems(shard, standing)]
  })
}

/**
 * Promotions move the primary, and what is built anew has another number: what stays are the regions, each as often as it was
 * named, of the nodes and of those that are to be built.
 */
function followerProblems({ name, region, followers }: ShardConfig, standing: ShardDocument): ConfigProblem[] {
  // What a cutover took in has no followers yet. It gets those that are named, which its law has been asked for.
  if (standing.state === 'fenced' && standing.promotion === undefined && placesOf(standing).length === 1) return []
  const founded = without(placesOf(standing), birthRegion(name)).toSorted()
  const wanted = followers.toSorted()
  if (founded.length === wanted.length && founded.every((one, index) => one === wanted[index])) return []
  const list = (regions: readonly RegionName[]) => `[${regions.join(', ')}]`
  const message = `is ${list(followers)}, and beside ${region} the fleet has ${list(founded)}`
  return [{ path: ['shards', name, 'followers'], at: 'value', message, hint: `write ${list(founded)}, ${orAnew}` }]
}

function placesOf({ nodes, retired = [] }: ShardDocument): RegionName[] {
  return [...nodes, ...retired.map(({ node }) => node)].map(({ region }) => region)
}

function without(regions: readonly RegionName[], one: RegionName): RegionName[] {
  const at = regions.indexOf(one)
  return regions.filter((_, index) => index !== at)
}

/** Whom a commit waited for says who may have it alone. Documents of an earlier form do not say. */
function surviveProblems({ name, survive }: ShardConfig, standing: ShardDocument): ConfigProblem[] {
  if (standing.survive === undefined || standing.survive === survive) return []
  const message = `is ${survive}, and the shard was founded with ${standing.survive}`
  const path = ['shards', name, 'survive']
  return [{ path, at: 'value', message, hint: `write survive: ${standing.survive}, ${orAnew}` }]
}
