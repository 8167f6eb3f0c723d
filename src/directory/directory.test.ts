import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { isHoldfastError } from '../base/errors.ts'
import type { DomainEntry, Placement, PlacementVersion, TenantEntry } from './directory.ts'
import { birthRegion, Directory, initialDirectory, initialPlacements, placementFromRow } from './directory.ts'
import type { ResidencyPolicy } from './policy.ts'
import type { DomainName, Jurisdiction, RegionName, ShardName, TenantName } from './topology.ts'

const shard = (name: string) => name as ShardName
const tenant = (name: string) => name as TenantName
const domain = (name: string) => name as DomainName

const european: ResidencyPolicy = {
  authority: ['eu-west' as RegionName],
  replicas: ['EU' as Jurisdiction],
  otherwise: 'read-only',
}
const american: ResidencyPolicy = {
  authority: ['us-east' as RegionName],
  replicas: ['US' as Jurisdiction],
  otherwise: 'reject',
}

const domains: DomainEntry[] = [
  { name: domain('payroll'), class: 'regulated', placement: 'tenant-home', policy: null, tables: ['payroll_runs'] },
  {
    name: domain('treasury'),
    class: 'regulated',
    placement: shard('us-east/treasury'),
    policy: american,
    tables: ['treasury_holds'],
  },
  {
    name: domain('tax'),
    class: 'reference',
    placement: shard('us-east/treasury'),
    policy: null,
    tables: ['tax_rules'],
  },
]
const tenants: TenantEntry[] = [
  { name: tenant('globex-eu'), home: shard('eu-west/payroll'), policy: european },
  { name: tenant('initech-us'), home: shard('us-east/treasury'), policy: american },
]
const directory = initialDirectory({
  domains: new Map(domains.map((entry) => [entry.name, entry])),
  tenants: new Map(tenants.map((entry) => [entry.name, entry])),
})

describe('a directory of a configuration', () => {
  test("P2: what is placed at home lies on the tenant's home, under the tenant's policy", () => {
    expect(directory.home('globex-eu')).toBe('eu-west/payroll')
    expect(directory.home('initech-us')).toBe('us-east/treasury')
    expect(directory.resolve('globex-eu', 'payroll')).toEqual({
      tenant: 'globex-eu',
      domain: 'payroll',
      shard: 'eu-west/payroll',
      version: 1,
      policy: european,
      policyVersion: 1,
      service: 'full',
    })
  })

  test("P3: a pinned domain lies on its shard for every tenant, under the domain's policy", () => {
    for (const name of ['globex-eu', 'initech-us']) {
      expect(directory.resolve(name, 'treasury')).toMatchObject({ shard: 'us-east/treasury', policy: american })
    }
  })

  test('reference data has a source and no policy', () => {
    expect(directory.resolve('globex-eu', 'tax')).toMatchObject({ shard: 'us-east/treasury', policy: null })
  })

  test('what lies on a shard is what must be asked about when it moves', () => {
    const held = directory.placementsOn(shard('us-east/treasury')).map((held) => `${held.tenant} ${held.domain}`)
    expect(held).toEqual([
      'globex-eu treasury',
      'globex-eu tax',
      'initech-us payroll',
      'initech-us treasury',
      'initech-us tax',
    ])
  })
})

describe('P5: a name that is not in the directory is refused with its code', () => {
  test.each([
    ['nobody', 'payroll', 'unknown_tenant', 'known tenants are globex-eu, initech-us'],
    ['globex-eu', 'nothing', 'unknown_domain', 'known domains are payroll, treasury, tax'],
    ['__proto__', 'payroll', 'unknown_tenant', 'known tenants are globex-eu, initech-us'],
  ] as const)('%s, %s: %s', (who, what, code, hint) => {
    const error = caught(() => directory.resolve(who, what))
    expect(isHoldfastError(error, code)).toBe(true)
    expect(error).toMatchObject({ hint })
  })

  test('a domain that no row places yet', () => {
    const unplaced = Directory.of(domains, initialPlacements(domains.slice(0, 1), tenants))
    expect(caught(() => unplaced.resolve('globex-eu', 'tax'))).toMatchObject({ code: 'unknown_domain' })
  })

  test('the home of nobody', () => {
    expect(caught(() => directory.home('nobody'))).toMatchObject({ code: 'unknown_tenant' })
  })
})

const moved = (placement: Placement, version: number): Placement => ({
  ...placement,
  shard: version === 1 ? placement.shard : shard(`eu-west/v${version}`),
  version: version as PlacementVersion,
})
const payroll = directory.resolve('globex-eu', 'payroll')
const anyPlacements = fc.array(
  fc
    .record({ of: fc.constantFrom(...directory.placements()), version: fc.integer({ min: 1, max: 5 }) })
    .map(({ of, version }) => moved(of, version)),
)
const sorted = (value: Directory) =>
  value
    .placements()
    .map((placement) => JSON.stringify(placement))
    .sort()

test('P4: the higher version stands, whatever order it arrives in', () => {
  const next = moved(payroll, 2)
  expect(directory.advance([next]).resolve('globex-eu', 'payroll')).toEqual(next)
  expect(directory.advance([next]).advance([payroll]).resolve('globex-eu', 'payroll')).toEqual(next)
  expect(directory.advance([next]).home('globex-eu')).toBe('eu-west/v2')
})

test('P4: merging is associative, commutative and idempotent', () => {
  fc.assert(
    fc.property(anyPlacements, anyPlacements, (some, more) => {
      const all = Directory.of(domains, [...some, ...more])
      expect(sorted(Directory.of(domains, some).advance(more))).toEqual(sorted(all))
      expect(sorted(Directory.of(domains, more).advance(some))).toEqual(sorted(all))
      expect(sorted(all.advance(all.placements()))).toEqual(sorted(all))
    }),
  )
})

test('P1: one version on two shards is a defect, not a choice', () => {
  expect(() => directory.advance([{ ...payroll, shard: shard('us-east/treasury') }])).toThrow(
    /version 1 of globex-eu\/payroll is on eu-west\/payroll and on us-east\/treasury/,
  )
})

describe('a row of holdfast.placement', () => {
  const row = {
    tenant: 'globex-eu',
    domain: 'payroll',
    shard: 'eu-west/payroll',
    version: 4,
    policy: { authority: ['eu-west'], replicas: ['EU'], otherwise: 'read-only' },
    policy_version: 2,
    service: 'read-only',
  }

  test('becomes a placement', () => {
    expect(placementFromRow(row)).toEqual({ ...payroll, version: 4, policyVersion: 2, service: 'read-only' })
    expect(placementFromRow({ ...row, policy: null }).policy).toBeNull()
  })

  test.each([{ version: 0 }, { version: 1.5 }, { policy_version: 0 }, { service: 'closed' }, { policy: {} }])(
    'is a defect with %j',
    (change) => {
      expect(() => placementFromRow({ ...row, ...change })).toThrow()
    },
  )
})

test('a shard is born in the region of its name', () => {
  expect(birthRegion(shard('eu-west/payroll'))).toBe('eu-west')
})

function caught(act: () => unknown): unknown {
  try {
    act()
  } catch (error) {
    return error
  }
  throw new Error('nothing was thrown')
}
