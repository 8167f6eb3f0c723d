import { describe, expect, test } from 'vitest'
import type { DomainEntry } from '../directory/directory.ts'
import { Directory, initialPlacements } from '../directory/directory.ts'
import type { ResidencyPolicy } from '../directory/policy.ts'
import type { DomainName, Jurisdiction, RegionName, ShardName, TenantName } from '../directory/topology.ts'
import type { Invariant } from './invariant.ts'
import type { AllowList, PlaceQuestion } from './invariant-place.ts'
import { planInvariant } from './invariant-place.ts'

const [west, east] = ['eu-west', 'us-east'].map((name) => name as RegionName) as [RegionName, RegionName]
const payroll = 'eu-west/payroll' as ShardName
const treasury = 'us-east/treasury' as ShardName
const policy = (region: RegionName, jurisdiction: string): ResidencyPolicy => ({
  authority: [region],
  replicas: [jurisdiction as Jurisdiction],
  otherwise: 'reject',
})
const domain = (name: string, placement: DomainEntry['placement'], its: ResidencyPolicy | null): DomainEntry => ({
  name: name as DomainName,
  class: its === null && name !== 'payroll' ? 'reference' : 'regulated',
  placement,
  policy: its,
  tables: [],
})
const domains = [
  domain('payroll', 'tenant-home', null),
  domain('treasury', treasury, policy(east, 'US')),
  domain('tax', treasury, null),
]
const tenants = [
  { name: 'globex-eu' as TenantName, home: payroll, policy: policy(west, 'EU') },
  { name: 'acme-de' as TenantName, home: payroll, policy: policy(west, 'EU') },
  { name: 'initech-us' as TenantName, home: treasury, policy: policy(east, 'US') },
]
const allowed: AllowList = { domain: 'payroll' as DomainName, table: 'runs', columns: ['id', 'status'], region: east }

function plan(needs: Invariant['needs'], allowLists: readonly AllowList[] = [allowed]) {
  const question: PlaceQuestion = {
    directory: Directory.of(domains, initialPlacements(domains, tenants)),
    regions: new Map([
      [west, 'EU' as Jurisdiction],
      [east, 'US' as Jurisdiction],
    ]),
    primaries: new Map([
      [payroll, west],
      [treasury, east],
    ]),
    allowLists,
  }
  const invariant = { name: 'rule', severity: 'critical' as const, query: 'select', needs }
  return planInvariant(invariant, question).map((run) => ({ tenants: run.tenants, place: run.place }))
}

const runs = { domain: 'payroll' as DomainName, table: 'runs', columns: ['tenant', 'id', 'status'] }
const holds = { domain: 'treasury' as DomainName, table: 'holds', columns: ['tenant', 'run_id'] }

describe('where an invariant runs', () => {
  test('over one domain, at the home of each tenant: nothing is moved', () => {
    expect(plan([runs], [])).toEqual([
      { tenants: ['globex-eu', 'acme-de'], place: payroll },
      { tenants: ['initech-us'], place: treasury },
    ])
  })

  test('R7: over two domains, in the one region where the law or an allow-list lets every column be', () => {
    expect(plan([runs, holds])).toEqual([
      { tenants: ['globex-eu', 'acme-de'], place: treasury },
      { tenants: ['initech-us'], place: treasury },
    ])
  })

  test('R7: a column that may be in no common region refuses the invariant, and names policy and column', () => {
    const names = { ...runs, columns: ['id', 'employee_name'] }
    expect(() => plan([names, holds])).toThrow(
      /no region in which invariant rule may run for globex-eu, acme-de.*domain payroll forbids a replica in us-east.*runs\(employee_name\) is on no allow-list/,
    )
  })

  test('R7: an allow-list holds for its own region, table and domain', () => {
    expect(() => plan([runs, holds], [{ ...allowed, region: west }])).toThrow('no region')
    expect(() => plan([runs, holds], [{ ...allowed, table: 'items' }])).toThrow('no region')
    expect(() => plan([runs, holds], [{ ...allowed, domain: 'tax' as DomainName }])).toThrow('no region')
  })

  test('reference data and what the platform knows may be anywhere', () => {
    const rules = { domain: 'tax' as DomainName, table: 'tax_rules', columns: ['rule'] }
    const committed = { domain: 'holdfast' as const, table: 'committed', columns: ['transaction_id'] }
    expect(plan([{ ...runs, columns: ['secret'] }, rules, committed], [])).toEqual([
      { tenants: ['globex-eu', 'acme-de'], place: payroll },
      { tenants: ['initech-us'], place: treasury },
    ])
  })

  test('a domain that is none is refused by name', () => {
    expect(() => plan([{ ...runs, domain: 'sales' as DomainName }])).toThrow('no domain "sales"')
  })
})
