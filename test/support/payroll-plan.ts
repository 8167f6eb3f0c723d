import type { DomainEntry, TenantEntry } from '../../src/directory/directory.ts'
import { tenantHome } from '../../src/directory/directory.ts'
import type { ResidencyPolicy } from '../../src/directory/policy.ts'
import type { DomainName, Jurisdiction, RegionName, ShardName, TenantName } from '../../src/directory/topology.ts'
import type { ShardPlan, ShardsPlan } from './shards.ts'

/** A small payroll: runs at the tenant's home, holds at the treasury. Two jurisdictions, so that the law has a say. */

export const payrollShard = 'eu-west/payroll' as ShardName
export const treasuryShard = 'us-east/treasury' as ShardName

const european: ResidencyPolicy = {
  authority: ['eu-west', 'eu-central'] as RegionName[],
  replicas: ['EU'] as Jurisdiction[],
  otherwise: 'read-only',
}
const american: ResidencyPolicy = {
  authority: ['us-east'] as RegionName[],
  replicas: ['US'] as Jurisdiction[],
  otherwise: 'reject',
}

const domains: readonly DomainEntry[] = [
  {
    name: 'payroll' as DomainName,
    class: 'regulated',
    placement: tenantHome,
    policy: null,
    tables: ['runs'],
  },
  {
    name: 'treasury' as DomainName,
    class: 'regulated',
    placement: treasuryShard,
    policy: american,
    tables: ['holds'],
  },
]

const tenants: readonly TenantEntry[] = [
  { name: 'globex-eu' as TenantName, home: payrollShard, policy: european },
  { name: 'acme-de' as TenantName, home: payrollShard, policy: european },
]

const schema = `
  create table public.runs (
    tenant text not null, id text not null, status text not null, total bigint not null default 0, primary key (tenant, id));
  create table public.holds (
    tenant text not null, run text not null, amount bigint not null, primary key (tenant, run));
  call holdfast.govern('public.runs', 'payroll', 'regulated');
  call holdfast.govern('public.holds', 'treasury', 'regulated');
`

export function payrollPlan(shards: readonly ShardPlan[], moreTenants: readonly TenantEntry[] = []): ShardsPlan {
  const regions = { 'eu-west': 'EU', 'eu-central': 'EU', 'us-east': 'US' }
  return { regions, shards, domains, tenants: [...tenants, ...moreTenants], schema }
}
