import type { Placement } from '../directory/directory.ts'
import { Directory, tenantHome } from '../directory/directory.ts'
import type { ResidencyPolicy } from '../directory/policy.ts'
import { decidePlacement, legalRegions } from '../directory/policy.ts'
import type { RegionName, ShardName } from '../directory/topology.ts'
import { administer } from './administer.ts'
import type { FleetConfig } from './config.ts'
import { jurisdictionsOf } from './config.ts'
import { placementKeyOf } from './config-check.ts'
import type { ConfigPath, ConfigProblem } from './config-problem.ts'
import { placementsOf, readPlacements } from './founding.ts'
import { refuseProblems } from './same-fleet.ts'
import { nodeOf } from './shard-servers.ts'
import type { Supervisor } from './supervisor.ts'

/**
 * P6: the same for what the rows know. They are the truth, and the law of every tenant: a file that says something else is refused,
 * and what it says anew has to be legal where the primaries are by now, which is not where the file has them born.
 */

const answerWithinMs = 5_000

/** On servers that run, before anything is changed. Throws `config_invalid` with every difference. */
export async function requireSamePlacements(supervisor: Supervisor): Promise<void> {
  const { config, topology } = supervisor
  const shards = Object.entries(topology.document.shards)
  const known = await Promise.all(shards.map(([name]) => knownOn(supervisor, name as ShardName)))
  const primaries = new Map(
    shards.map(([name, shard]) => [name as ShardName, nodeOf(shard, shard.primary).region] as const),
  )
  refuseProblems(placementProblems(config, Directory.of([], known.flat()).placements(), primaries))
}

/** Every shard has the rows of all, and each node those of its shard: one that the start goes on without (V10) is not needed. */
async function knownOn(supervisor: Supervisor, name: ShardName): Promise<Placement[]> {
  const { topology, servers, shardServers } = supervisor
  const shard = topology.shard(name)
  const primary = nodeOf(shard, shard.primary)
  for (const node of [primary, ...shard.nodes.filter(({ id }) => id !== primary.id)]) {
    if (!servers.isRunning(node.id)) continue
    try {
      return await administer(shardServers.adminTarget(node), (admin) => readPlacements(admin, answerWithinMs))
    } catch {
      // The next one has the same rows.
    }
  }
  return []
}

/** `known`: every placement that a row knows. `primaries`: where the authority of each shard is now. */
function placementProblems(
  config: FleetConfig,
  known: readonly Placement[],
  primaries: ReadonlyMap<ShardName, RegionName>,
): ConfigProblem[] {
  const key = ({ tenant, domain }: Placement) => `${tenant} ${domain}`
  const wanted = new Map(placementsOf(config).map((placement) => [key(placement), placement]))
  const problems: ConfigProblem[] = []
  for (const row of known) {
    problems.push(...differences(config, row, wanted.get(key(row))))
    wanted.delete(key(row))
  }
  for (const placement of wanted.values()) problems.push(...newProblems(config, placement, primaries))
  // Every tenant of a pinned domain, and every domain of a tenant, would say the same.
  const first = new Map(problems.toReversed().map((problem) => [problem.path.join('.'), problem]))
  return [...first.values()].toReversed()
}

function differences(config: FleetConfig, row: Placement, wanted: Placement | undefined): ConfigProblem[] {
  if (wanted === undefined) {
    const path = config.tenants.has(row.tenant) ? ['domains', row.domain] : ['tenants', row.tenant]
    const message = 'is missing, and the fleet has placed it'
    return [{ path, at: 'key', message, hint: `put it back as it was: it is on ${row.shard} all the same` }]
  }
  const { place, policy } = pathsOf(config, row)
  if (row.shard !== wanted.shard) {
    const message = `is ${wanted.shard}, and the fleet has it on ${row.shard}`
    return [{ path: place, at: 'value', message, hint: `write ${row.shard}: a start moves nothing` }]
  }
  return policyProblems(policy, row.policy, wanted.policy)
}

/** Where the configuration says a placement's shard and its policy. */
function pathsOf(
  { domains }: FleetConfig,
  { tenant, domain: name }: Placement,
): { readonly place: ConfigPath; readonly policy: ConfigPath } {
  const domain = domains.get(name)
  return domain === undefined || domain.placement === tenantHome
    ? { place: ['tenants', tenant, 'home'], policy: ['tenants', tenant, 'policy'] }
    : { place: ['domains', name, placementKeyOf(domain)], policy: ['domains', name, 'policy'] }
}

/** The order of `authority` is that of a failover; that of `replicas` says nothing. */
const policyKeys: readonly (readonly [keyof ResidencyPolicy, (policy: ResidencyPolicy) => string])[] = [
  ['authority', ({ authority }) => `[${authority.join(', ')}]`],
  ['replicas', ({ replicas }) => `[${replicas.toSorted().join(', ')}]`],
  ['otherwise', ({ otherwise }) => otherwise],
]

function policyProblems(path: ConfigPath, has: ResidencyPolicy | null, says: ResidencyPolicy | null): ConfigProblem[] {
  if (has === null || says === null) {
    if (has === says) return []
    const [message, hint] =
      has === null
        ? ['is there, and the fleet has placed it without one', 'take it out, with the data class as it was']
        : ['is missing, and the fleet has placed it under one', 'put it back, with the data class as it was']
    return [{ path, at: 'value', message, hint }]
  }
  return policyKeys.flatMap(([key, textOf]): ConfigProblem[] => {
    const [before, now] = [textOf(has), textOf(says)]
    if (before === now) return []
    const message = `is ${now}, and the fleet has placed it under ${before}`
    return [{ path: [...path, key], at: 'value', message, hint: `write ${before}: a start changes no policy` }]
  })
}

/** The form asks the law about the regions of a shard's birth. A promotion may have taken the authority to another one. */
function newProblems(
  config: FleetConfig,
  placement: Placement,
  primaries: ReadonlyMap<ShardName, RegionName>,
): ConfigProblem[] {
  const region = primaries.get(placement.shard)
  const regions = jurisdictionsOf(config.regions)
  if (region === undefined || decidePlacement({ holding: 'authority', region }, [placement], regions).allowed) return []
  const legal = legalRegions('authority', placement.policy, regions).join(', ')
  const message = `the primary of ${placement.shard} is in ${region} now, where the policy does not allow the authority`
  const hint = `it is legal in ${legal}: start without it, and move the primary there first, with holdfast failover`
  return [{ path: pathsOf(config, placement).place, at: 'value', message, hint }]
}
