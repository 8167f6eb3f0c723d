import { sep } from 'node:path'
import { firstPolicyVersion, tenantHome } from '../directory/directory.ts'
import type { GovernedPlacement, Holding, Regions, ResidencyPolicy } from '../directory/policy.ts'
import { decidePlacement, legalRegions } from '../directory/policy.ts'
import type { DomainName, RegionName, ShardName, TenantName } from '../directory/topology.ts'
import type { DomainConfig, FleetConfig, RegionLink, ShardConfig } from './config.ts'
import { portMax } from './config-form.ts'
import type { ConfigPath, Report } from './config-problem.ts'
import type { ConfigDraft, Entries } from './config-read.ts'

/**
 * What the parts of a configuration mean to each other: names that must exist, and what the law allows. Whether
 * data may be somewhere is asked of `decidePlacement` and nowhere else.
 */

/** The configuration of a draft; `null` only when something was reported. */
export function checkDraft(draft: ConfigDraft, report: Report): FleetConfig | null {
  const regions: Regions = new Map([...draft.regions.values].map(([name, { jurisdiction }]) => [name, jurisdiction]))
  const owners = ownersOf(draft)
  const hasForm = draft.root !== null
  if (hasForm && draft.regions.names.size === 0) report(['regions'], 'is empty', 'name at least one region')
  if (hasForm && draft.shards.names.size === 0) report(['shards'], 'is empty', 'name at least one shard')
  checkPorts(draft, report)
  const links = checkLinks(draft, report)
  checkShards(draft, report)
  checkDomains(draft, report)
  checkTenants(draft, report)
  for (const owner of owners) checkPolicy(owner, draft, regions, report)
  checkResidency(draft, owners, regions, report)
  checkArchiveFolders(draft, report)
  const shards = withArchives(draft, owners, regions, report)
  if (draft.root === null) return null
  const { maxClockOffset, restoreWindow, drills, ...root } = draft.root
  return {
    fleet: root.fleet,
    dataDir: root.dataDir,
    listen: root.listen,
    app: root.app,
    maxClockOffsetMs: maxClockOffset,
    restoreWindowMs: restoreWindow,
    regions: draft.regions.values,
    links,
    shards,
    domains: draft.domains.values,
    tenants: draft.tenants.values,
    invariants: root.invariants,
    drills: drills === null ? null : { everyMs: drills.every, targetAgeMs: drills.target },
    outbox: root.outbox,
  }
}

/** Whoever brings a policy to a shard: a tenant to its home, or a pinned domain. */
interface Owner {
  readonly what: string
  readonly shard: ShardName
  readonly policy: ResidencyPolicy
  readonly placement: GovernedPlacement
  readonly shardPath: ConfigPath
  readonly policyPath: ConfigPath
}

function ownersOf({ tenants, domains }: ConfigDraft): Owner[] {
  const every = { tenant: '*' as TenantName, domain: '*' as DomainName, policyVersion: firstPolicyVersion }
  const ofTenants = [...tenants.values.values()].map(
    ({ name, home, policy }): Owner => ({
      what: `tenant ${name}`,
      shard: home,
      policy,
      placement: { ...every, tenant: name, policy },
      shardPath: ['tenants', name, 'home'],
      policyPath: ['tenants', name, 'policy'],
    }),
  )
  const ofDomains = [...domains.values.values()].flatMap(({ name, placement, policy }): Owner[] => {
    if (placement === tenantHome || policy === null) return []
    return [
      {
        what: `domain ${name}`,
        shard: placement,
        policy,
        placement: { ...every, domain: name, policy },
        shardPath: ['domains', name, 'placement'],
        policyPath: ['domains', name, 'policy'],
      },
    ]
  })
  return [...ofTenants, ...ofDomains]
}

/** The gateway of each region listens on the port after that of the one before. */
function checkPorts({ root, regions }: ConfigDraft, report: Report): void {
  const port = root?.listen.port ?? 0
  const firstMax = portMax - (regions.names.size - 1)
  if (port === 0 || port <= firstMax) return
  const message = `leaves no ports for the gateways of ${regions.names.size} regions, which listen on ${port} and those after it`
  report(['listen'], message, `write a port of at most ${firstMax}, or 0`)
}

function checkLinks({ links, regions }: ConfigDraft, report: Report): RegionLink[] {
  const seen = new Set<string>()
  return [...links.values].flatMap(([key, roundTrip]): RegionLink[] => {
    const path = ['links', key]
    const pair = key.split('~')
    const [a, b] = pair
    if (a === undefined || b === undefined || pair.length !== 2 || a === b) {
      report(path, 'is not a pair of two regions', 'write it as eu-west~us-east', 'key')
      return []
    }
    for (const region of pair) requireName(region, regions, path, 'region', report, 'key')
    const unordered = pair.toSorted().join('~')
    if (seen.has(unordered)) report(path, 'is given twice', 'a link has the same round trip both ways', 'key')
    seen.add(unordered)
    return [{ between: [a as RegionName, b as RegionName], roundTripMs: roundTrip }]
  })
}

function checkShards({ shards, regions }: ConfigDraft, report: Report): void {
  for (const [name, { region, durability, followers, survive }] of shards.values) {
    const path = ['shards', name]
    requireName(region, regions, path, 'region', report, 'key')
    followers.forEach((follower, index) => {
      requireName(follower, regions, [...path, 'followers', index], 'region', report)
    })
    const elsewhere = followers.some((follower) => follower !== region)
    if (survive === 'region' && durability === 'local') {
      report([...path, 'survive'], 'local durability waits for no follower', 'write durability: quorum')
    } else if (survive === 'region' && !elsewhere) {
      report([...path, 'survive'], `no follower is outside ${region}`, 'add a follower in another legal region')
    } else if (durability === 'quorum' && survive === 'node' && followers.length < 2) {
      const hint = 'add followers until there are two, or write durability: local, which can lose acknowledged writes'
      report(
        [...path, 'followers'],
        `quorum waits for one of at least two followers, here are ${followers.length}`,
        hint,
      )
    }
  }
}

function checkDomains({ domains, shards }: ConfigDraft, report: Report): void {
  const homeOf = new Map<string, DomainName>()
  for (const [name, domain] of domains.values) {
    const path = ['domains', name]
    const placed = domain.placement !== tenantHome
    if (placed) requireName(domain.placement, shards, [...path, placementKeyOf(domain)], 'shard', report)
    if (domain.class === 'regulated' && placed && domain.policy === null) {
      report(
        path,
        'a pinned regulated domain needs a policy of its own',
        'add policy: { authority, replicas, otherwise }',
      )
    }
    if (!placed && domain.policy !== null) {
      report([...path, 'policy'], "at home the tenant's policy holds", 'leave it out, or pin the domain to a shard')
    }
    domain.tables.forEach((table, index) => {
      const other = homeOf.get(table)
      if (other === undefined) homeOf.set(table, name)
      else report([...path, 'tables', index], `table ${table} is already in domain ${other}`, 'list it in one domain')
    })
    for (const [source, columns] of domain.from) checkSource(name, source, [...columns.keys()], domains, report)
  }
}

/** The key that says where a domain is. */
export function placementKeyOf({ class: dataClass }: DomainConfig): 'source' | 'at' | 'placement' {
  return dataClass === 'reference' ? 'source' : dataClass === 'derived' ? 'at' : 'placement'
}

function checkSource(
  domain: DomainName,
  source: DomainName,
  tables: readonly string[],
  domains: ConfigDraft['domains'],
  report: Report,
): void {
  const path = ['domains', domain, 'from', source]
  requireName(source, domains, path, 'domain', report, 'key')
  const known = domains.values.get(source)
  for (const table of tables) {
    if (known === undefined || known.tables.includes(table)) continue
    report(
      [...path, table],
      `domain ${source} has no table ${table}`,
      `its tables are ${known.tables.join(', ')}`,
      'key',
    )
  }
}

function checkTenants({ tenants, shards, domains }: ConfigDraft, report: Report): void {
  for (const [name, { home }] of tenants.values) requireName(home, shards, ['tenants', name, 'home'], 'shard', report)
  const complete = domains.names.size === domains.values.size
  if (tenants.names.size > 0 && complete && ![...domains.values.values()].some((d) => d.placement === tenantHome)) {
    const hint = 'give one regulated domain the placement tenant-home: transactions are recorded at home'
    report(['domains'], 'no domain is placed at the home of its tenant', hint, 'key')
  }
}

function checkPolicy({ policy, policyPath }: Owner, { regions }: ConfigDraft, known: Regions, report: Report): void {
  const jurisdictions = new Set<string>(known.values())
  const complete = regions.names.size === regions.values.size
  policy.authority.forEach((region, index) => {
    const path = [...policyPath, 'authority', index]
    requireName(region, regions, path, 'region', report)
    if (policy.authority.indexOf(region) < index) report(path, `${region} is listed twice`, 'list it once')
    const jurisdiction = known.get(region)
    if (jurisdiction !== undefined && !policy.replicas.includes(jurisdiction)) {
      const message = `${region} lies in ${jurisdiction}, which the policy's replicas do not allow`
      report(path, message, `add ${jurisdiction} to replicas, or take ${region} out`)
    }
  })
  policy.replicas.forEach((jurisdiction, index) => {
    if (!complete || jurisdictions.has(jurisdiction)) return
    const hint = `known jurisdictions are ${[...jurisdictions].join(', ')}`
    report([...policyPath, 'replicas', index], `no region lies in ${jurisdiction}`, hint)
  })
}

/** Every primary and every follower stands where each policy on its shard allows it. */
function checkResidency(draft: ConfigDraft, owners: readonly Owner[], regions: Regions, report: Report): void {
  for (const owner of owners) {
    const shard = draft.shards.values.get(owner.shard)
    if (shard === undefined) continue
    const refuse = (holding: Holding, region: RegionName, path: ConfigPath, message: string) => {
      if (!regions.has(region) || decidePlacement({ holding, region }, [owner.placement], regions).allowed) return
      const legal = legalRegions(holding, owner.policy, regions).join(', ') || 'no region of this fleet'
      report(path, message, `legal for ${owner.what} is ${legal}`)
    }
    const authority = `the policy of ${owner.what} does not allow the authority in ${shard.region}`
    refuse('authority', shard.region, owner.shardPath, authority)
    shard.followers.forEach((region, index) => {
      const message = `a follower in ${region} (${regions.get(region)}) would hold data of ${owner.what}, whose policy allows ${owner.policy.replicas.join(', ')}`
      refuse('replica', region, ['shards', shard.name, 'followers', index], message)
    })
  }
}

/** Two regions that share a folder would keep one's backups under the other's law. */
function checkArchiveFolders({ regions }: ConfigDraft, report: Report): void {
  const taken: { region: RegionName; folder: string }[] = []
  for (const { name, archive } of regions.values.values()) {
    if (archive === null) continue
    const folder = archive + sep
    const other = taken.find((before) => folder.startsWith(before.folder) || before.folder.startsWith(folder))
    if (other !== undefined) {
      const message = `the archives of ${name} and ${other.region} lie in one folder`
      report(['regions', name, 'archive'], message, 'give each region a folder of its own')
    }
    taken.push({ region: name, folder })
  }
}

function withArchives(
  { shards, regions }: ConfigDraft,
  owners: readonly Owner[],
  known: Regions,
  report: Report,
): Map<ShardName, ShardConfig> {
  const archived = [...regions.values.values()].filter(({ archive }) => archive !== null)
  const chosen = [...shards.values].map(([name, shard]): [ShardName, ShardConfig] => {
    const held = owners.filter((owner) => owner.shard === name)
    const placements = held.map(({ placement }) => placement)
    const nearFirst = new Set([shard.region, ...shard.followers, ...archived.map((region) => region.name)])
    for (const region of nearFirst) {
      const path = regions.values.get(region)?.archive
      if (typeof path !== 'string') continue
      if (decidePlacement({ holding: 'backup', region }, placements, known).allowed) {
        return [name, { ...shard, archive: { region, path } }]
      }
    }
    if (archived.length > 0 && known.has(shard.region)) {
      const have = archived.map((region) => `${region.name} (${region.jurisdiction})`).join(', ')
      const message = `no archive is legal for ${held.map(({ what }) => what).join(', ')}; archives are in ${have}`
      report(['shards', name], message, `give region ${shard.region} an archive`, 'key')
    }
    return [name, { ...shard, archive: null }]
  })
  return new Map(chosen)
}

function requireName(
  name: string,
  entries: Entries<string, unknown>,
  path: ConfigPath,
  what: string,
  report: Report,
  at?: 'key',
): void {
  if (entries.names.has(name)) return
  report(path, `there is no ${what} ${name}`, `known ${what}s are ${[...entries.names].join(', ') || 'none'}`, at)
}
