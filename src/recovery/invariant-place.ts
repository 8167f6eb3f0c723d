import { HoldfastError } from '../base/errors.ts'
import type { Directory } from '../directory/directory.ts'
import type { Regions } from '../directory/policy.ts'
import { decidePlacement, describeRefusal } from '../directory/policy.ts'
import type { DomainName, RegionName, ShardName, TenantName } from '../directory/topology.ts'
import type { Invariant, NeededTable } from './invariant.ts'
import { platformDomain } from './invariant.ts'

/**
 * Where an invariant may run.
 *
 * Its rows are brought together on one shard's primary, and bringing them there must be legal: for each table, either
 * the policies allow a replica in that region, or every column is on the allow-list of a derived domain that lives there.
 * Tenants on different shards are different questions with different answers, so they are asked apart: data of a tenant
 * never travels for the sake of another's.
 */
export interface InvariantRun {
  readonly tenants: readonly TenantName[]
  readonly sources: readonly InvariantSource[]
  /** Whose primary runs the query. */
  readonly place: ShardName
}

export interface InvariantSource extends NeededTable {
  /** Null for what no shard holds. */
  readonly shard: ShardName | null
  /** Whether the table has rows of several tenants, to be read by tenant. */
  readonly byTenant: boolean
}

/** Columns of a table that may be shown in a region outside of their home. */
export interface AllowList {
  readonly domain: DomainName
  readonly table: string
  readonly columns: readonly string[]
  readonly region: RegionName
}

export interface PlaceQuestion {
  readonly directory: Directory
  readonly regions: Regions
  /** Where the primary of each shard is. */
  readonly primaries: ReadonlyMap<ShardName, RegionName>
  readonly allowLists: readonly AllowList[]
}

/** Throws `residency_denied` when for some tenants there is no legal place, `unknown_domain` for a domain that is none. */
export function planInvariant(invariant: Invariant, question: PlaceQuestion): InvariantRun[] {
  const groups = new Map<string, { tenants: TenantName[]; sources: InvariantSource[] }>()
  for (const tenant of question.directory.tenants()) {
    const sources = invariant.needs.map((need) => sourceOf(need, tenant, question.directory))
    const key = JSON.stringify(sources.map(({ shard }) => shard))
    const group = groups.get(key)
    if (group === undefined) groups.set(key, { tenants: [tenant], sources })
    else group.tenants.push(tenant)
  }
  return [...groups.values()].map((group) => ({ ...group, place: choosePlace(invariant, group, question) }))
}

function sourceOf(need: NeededTable, tenant: TenantName, directory: Directory): InvariantSource {
  if (need.domain !== platformDomain) {
    const { class: dataClass } = directory.domain(need.domain)
    const { shard } = directory.resolve(tenant, need.domain)
    return { ...need, shard, byTenant: dataClass === 'regulated' || need.columns.includes('tenant') }
  }
  const isAtHome = need.table === 'committed'
  return { ...need, shard: isAtHome ? directory.home(tenant) : null, byTenant: isAtHome }
}

function choosePlace(
  invariant: Invariant,
  { tenants, sources }: { readonly tenants: readonly TenantName[]; readonly sources: readonly InvariantSource[] },
  question: PlaceQuestion,
): ShardName {
  // A shard that holds some of the rows already comes first: less is moved.
  const holders = sources.flatMap(({ shard }) => shard ?? [])
  const candidates = [...new Set([...holders, ...question.primaries.keys()])]
  const reasons: string[] = []
  for (const place of candidates) {
    const region = question.primaries.get(place)
    if (region === undefined) continue
    const refusal = firstRefusal(
      region,
      tenants,
      sources.filter(({ shard }) => shard !== place),
      question,
    )
    if (refusal === null) return place
    reasons.push(refusal)
  }
  throw new HoldfastError(
    'residency_denied',
    `there is no region in which invariant ${invariant.name} may run for ${tenants.join(', ')}: ${reasons.join('; ')}`,
    {
      hint: 'ask for fewer columns, or allow them in a derived domain',
      detail: { invariant: invariant.name, tenants },
    },
  )
}

/** Why rows of these tables may not be brought into the region; null when they may. */
function firstRefusal(
  region: RegionName,
  tenants: readonly TenantName[],
  sources: readonly InvariantSource[],
  { directory, regions, allowLists }: PlaceQuestion,
): string | null {
  for (const { domain, table, columns } of sources) {
    if (domain === platformDomain) continue
    const placements = tenants.map((tenant) => directory.resolve(tenant, domain))
    const asked = { holding: 'replica', region } as const
    const decision = decidePlacement(asked, placements, regions)
    if (decision.allowed) continue
    const hidden = columns.filter((column) => !isAllowed(column, domain, table, region, allowLists))
    if (hidden.length === 0) continue
    const [first] = decision.refusals
    const law = first === undefined ? `${region} is unknown` : describeRefusal(asked, first)
    return `${law}, and ${table}(${hidden.join(', ')}) is on no allow-list there`
  }
  return null
}

function isAllowed(
  column: string,
  domain: DomainName,
  table: string,
  region: RegionName,
  allowLists: readonly AllowList[],
): boolean {
  // The tenant's name is in every shard's directory.
  if (column === 'tenant') return true
  return allowLists.some(
    (list) => list.domain === domain && list.table === table && list.region === region && list.columns.includes(column),
  )
}
