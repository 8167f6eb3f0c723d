import { assert, present } from '../base/assert.ts'
import type { Brand } from '../base/brand.ts'
import { HoldfastError } from '../base/errors.ts'
import type { GovernedPlacement, PolicyVersion, ResidencyPolicy } from './policy.ts'
import { policyFromJson } from './policy.ts'
import type { DomainName, RegionName, ShardName, TenantName, ShardState } from './topology.ts'

/**
 * The directory says which shard is the source of truth for a tenant's domain.
 *
 * The simple way is a lookup table in every gateway. It fails on the day a placement moves: a gateway that has
 * not heard of the move goes on writing in the old place, and no cache protocol excludes that, because a gateway
 * can always pause between looking and writing. So the table here only *routes*. Whether a write may stand is
 * decided beside the data: each shard keeps the placements it owns with their versions, the stamp of every
 * transaction checks them, and a directory that is behind costs a retry, never a wrong write.
 *
 * Owns: the value, how two of them merge, and how a placement is made from configuration and from a row of
 * `holdfast.placement`. Does not own: storing and moving placements (`directory-store.ts`, `failover/`), and
 * what is legal (`policy.ts`). Talks to nobody: everything here is pure.
 *
 *   P1  A placement version of a (tenant, domain) names one shard for ever. A move makes the next version.
 *   P2  All domains of a tenant that are placed at home lie on one shard, the tenant's home; it holds the
 *       transaction records of the tenant.
 *   P3  A pinned domain lies on its shard for every tenant, under the domain's own policy.
 *   P4  Directories only advance: of two placements of one (tenant, domain) the higher version stands, whatever
 *       order they arrive in. Merging is associative, commutative and idempotent.
 *   P5  Routing is total: a name that is not in the directory is refused with its code, never guessed.
 *   P6  A fleet starts by the configuration that its rows and its topology have, or not at all (`fleet/same-placements.ts`).
 *
 * HAZARD: the numbers start at 1 from the configuration. A shard's rows are the truth from then on; the
 * configuration only adds tenants and domains that no row knows.
 */

/** The version of one placement; it grows with every move and every change of service. */
export type PlacementVersion = Brand<number, 'PlacementVersion'>

/** `regulated`: authoritative, stays home. `reference`: copied everywhere. `derived`: built elsewhere from allowed fields. */
export type DataClass = 'regulated' | 'reference' | 'derived'

export const tenantHome = 'tenant-home'

export interface DomainEntry {
  readonly name: DomainName
  readonly class: DataClass
  /** `tenant-home`, or the shard it is pinned to. The source of reference data, the place of derived data. */
  readonly placement: typeof tenantHome | ShardName
  /** Of a pinned regulated domain. At home the tenant's policy holds; other classes have none. */
  readonly policy: ResidencyPolicy | null
  readonly tables: readonly string[]
}

export interface TenantEntry {
  readonly name: TenantName
  readonly home: ShardName
  readonly policy: ResidencyPolicy
}

/** `read-only` and `reject` are what the policy asked for when no legal region was left. */
export type PlacementService = 'full' | 'read-only' | 'reject'

export interface Placement extends GovernedPlacement {
  readonly shard: ShardName
  readonly version: PlacementVersion
  readonly service: PlacementService
}

/** What is served of a placement: what its row says, and where its shard is lost what the policy wants then. */
export function serviceOf({ service, policy }: Placement, state: ShardState): PlacementService {
  if (state !== 'lost' || service === 'reject') return service
  // What no policy is about may be read wherever it still is.
  return policy === null ? 'read-only' : policy.otherwise
}

export const firstPlacementVersion = 1 as PlacementVersion
export const firstPolicyVersion = 1 as PolicyVersion

export class Directory {
  readonly #domains: ReadonlyMap<DomainName, DomainEntry>
  readonly #placements: ReadonlyMap<TenantName, ReadonlyMap<DomainName, Placement>>

  private constructor(
    domains: ReadonlyMap<DomainName, DomainEntry>,
    placements: ReadonlyMap<TenantName, ReadonlyMap<DomainName, Placement>>,
  ) {
    this.#domains = domains
    this.#placements = placements
  }

  /** The directory of these placements, in any order and with repetitions (P4). */
  static of(domains: Iterable<DomainEntry>, placements: Iterable<Placement>): Directory {
    const byTenant = new Map<TenantName, Map<DomainName, Placement>>()
    for (const placement of placements) {
      const ofTenant = byTenant.get(placement.tenant) ?? new Map<DomainName, Placement>()
      byTenant.set(placement.tenant, ofTenant)
      const known = ofTenant.get(placement.domain)
      ofTenant.set(placement.domain, known === undefined ? placement : newerPlacement(known, placement))
    }
    return new Directory(new Map([...domains].map((domain) => [domain.name, domain])), byTenant)
  }

  /** This directory advanced by placements that may be newer (P4). */
  advance(placements: Iterable<Placement>): Directory {
    return Directory.of(this.#domains.values(), [...this.placements(), ...placements])
  }

  /** Where a tenant's domain is. Throws `unknown_tenant` or `unknown_domain`; a retry needs another name. */
  resolve(tenant: string, domain: string): Placement {
    const ofTenant = this.#ofTenant(tenant)
    this.domain(domain)
    const placement = ofTenant.get(domain as DomainName)
    if (placement !== undefined) return placement
    throw new HoldfastError('unknown_domain', `domain ${domain} is not placed for tenant ${tenant}`, {
      hint: `placed are ${list(ofTenant.keys())}`,
      detail: { tenant, domain },
    })
  }

  /** The shard that holds the transaction records of a tenant (P2). Throws `unknown_tenant`. */
  home(tenant: string): ShardName {
    for (const placement of this.#ofTenant(tenant).values()) {
      if (this.#domains.get(placement.domain)?.placement === tenantHome) return placement.shard
    }
    throw new HoldfastError('unknown_tenant', `tenant ${tenant} has no domain at home`, {
      hint: 'give at least one regulated domain the placement tenant-home',
      detail: { tenant },
    })
  }

  /** A configured domain. Throws `unknown_domain`. */
  domain(name: string): DomainEntry {
    const domain = this.#domains.get(name as DomainName)
    if (domain !== undefined) return domain
    throw new HoldfastError('unknown_domain', `no domain ${JSON.stringify(name)}`, {
      hint: `known domains are ${list(this.#domains.keys())}`,
      detail: { domain: name },
    })
  }

  domains(): DomainEntry[] {
    return [...this.#domains.values()]
  }

  tenants(): TenantName[] {
    return [...this.#placements.keys()]
  }

  placements(): Placement[] {
    return [...this.#placements.values()].flatMap((ofTenant) => [...ofTenant.values()])
  }

  /** Everything that is placed for a tenant. Throws `unknown_tenant`. */
  placementsOf(tenant: string): Placement[] {
    return [...this.#ofTenant(tenant).values()]
  }

  /** What a shard is the source of truth for: what `decidePlacement` must ask about when the shard moves. */
  placementsOn(shard: ShardName): Placement[] {
    return this.placements().filter((placement) => placement.shard === shard)
  }

  #ofTenant(tenant: string): ReadonlyMap<DomainName, Placement> {
    const ofTenant = this.#placements.get(tenant as TenantName)
    if (ofTenant !== undefined) return ofTenant
    throw new HoldfastError('unknown_tenant', `no tenant ${JSON.stringify(tenant)}`, {
      hint: `known tenants are ${list(this.#placements.keys())}`,
      detail: { tenant },
    })
  }
}

/** Where a process gets its directory from: the shards' own rows, kept as a value between refreshes. */
export interface DirectorySource {
  current(): Directory
  /** Reads the rows again now, e.g. after a refusal that says a placement moved. */
  refresh(): Promise<Directory>
}

/** The placements of a configuration before anything moved: every tenant with every domain, all at version 1. */
export function initialPlacements(domains: Iterable<DomainEntry>, tenants: Iterable<TenantEntry>): Placement[] {
  const all = [...domains]
  return [...tenants].flatMap((tenant) => all.map((domain) => initialPlacement(domain, tenant)))
}

function initialPlacement(domain: DomainEntry, tenant: TenantEntry): Placement {
  const atHome = domain.placement === tenantHome
  return {
    tenant: tenant.name,
    domain: domain.name,
    shard: domain.placement === tenantHome ? tenant.home : domain.placement,
    version: firstPlacementVersion,
    policy: atHome ? tenant.policy : domain.policy,
    policyVersion: firstPolicyVersion,
    service: 'full',
  }
}

export function initialDirectory(config: {
  readonly domains: ReadonlyMap<DomainName, DomainEntry>
  readonly tenants: ReadonlyMap<TenantName, TenantEntry>
}): Directory {
  const domains = [...config.domains.values()]
  return Directory.of(domains, initialPlacements(domains, config.tenants.values()))
}

/** Of two placements of one (tenant, domain), the one that stands (P4). */
export function newerPlacement(a: Placement, b: Placement): Placement {
  assert(a.tenant === b.tenant && a.domain === b.domain, 'only placements of one tenant and domain compare')
  if (a.version !== b.version) return a.version > b.version ? a : b
  assert(a.shard === b.shard, `version ${a.version} of ${a.tenant}/${a.domain} is on ${a.shard} and on ${b.shard}`)
  return a.policyVersion >= b.policyVersion ? a : b
}

/** A row of `holdfast.placement`. Data without a policy is stored with the JSON value `null`. */
export interface PlacementRow {
  readonly tenant: string
  readonly domain: string
  readonly shard: string
  readonly version: number
  readonly policy: unknown
  readonly policy_version: number
  readonly service: string
}

export function placementFromRow(row: PlacementRow): Placement {
  const services: readonly PlacementService[] = ['full', 'read-only', 'reject']
  return {
    tenant: row.tenant as TenantName,
    domain: row.domain as DomainName,
    shard: row.shard as ShardName,
    version: checkedVersion(row.version) as PlacementVersion,
    policy: row.policy === null ? null : policyFromJson(row.policy),
    policyVersion: checkedVersion(row.policy_version) as PolicyVersion,
    service: present(
      services.find((service) => service === row.service),
      `a placement's service is one of ${services.join(', ')}, not ${row.service}`,
    ),
  }
}

/** The region in which a shard was born: the first part of its name. Its primary may be elsewhere by now. */
export function birthRegion(shard: ShardName): RegionName {
  return shard.slice(0, shard.indexOf('/')) as RegionName
}

function checkedVersion(version: number): number {
  assert(Number.isSafeInteger(version) && version >= 1, `a version is a positive integer, not ${version}`)
  return version
}

function list(names: Iterable<string>): string {
  return [...names].join(', ') || 'none'
}
