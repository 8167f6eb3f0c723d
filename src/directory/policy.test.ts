import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type {
  GovernedPlacement,
  Holding,
  Otherwise,
  PlacementDecision,
  PolicyVersion,
  RefusalReason,
  ResidencyPolicy,
} from './policy.ts'
import { decidePlacement, describeRefusal, legalRegions, policyFromJson, whatIf } from './policy.ts'
import type { DomainName, Jurisdiction, NodeId, RegionName, TenantName } from './topology.ts'

const region = (name: string) => name as RegionName
const jurisdiction = (name: string) => name as Jurisdiction
const regions = new Map([
  [region('eu-west'), jurisdiction('EU')],
  [region('eu-central'), jurisdiction('EU')],
  [region('us-east'), jurisdiction('US')],
])

const policy = (authority: string[], replicas: string[], otherwise: Otherwise = 'reject'): ResidencyPolicy => ({
  authority: authority.map(region),
  replicas: replicas.map(jurisdiction),
  otherwise,
})

const placed = (tenant: string, held: ResidencyPolicy | null, version = 1): GovernedPlacement => ({
  tenant: tenant as TenantName,
  domain: 'payroll' as DomainName,
  policy: held,
  policyVersion: version as PolicyVersion,
})

const globex = placed('globex-eu', policy(['eu-west', 'eu-central'], ['EU'], 'read-only'), 3)
const acme = placed('acme-de', policy(['eu-central'], ['EU']))
const initech = placed('initech-us', policy(['us-east'], ['US']))
const tax = placed('globex-eu', null)

describe('the decision table: every holding, every kind of region, every kind of policy', () => {
  const holdings: Holding[] = ['authority', 'replica', 'backup']
  type Outcome = 'allowed' | RefusalReason
  // Columns: authority, replica, backup.
  const table: [where: string, policy: string, held: ResidencyPolicy | null, Outcome, Outcome, Outcome][] = [
    ['eu-west', 'none', null, 'allowed', 'allowed', 'allowed'],
    ['eu-west', 'listed, jurisdiction listed', policy(['eu-west'], ['EU']), 'allowed', 'allowed', 'allowed'],
    [
      'eu-west',
      'listed, jurisdiction not',
      policy(['eu-west'], ['US']),
      'allowed',
      'jurisdiction_not_in_replicas',
      'jurisdiction_not_in_replicas',
    ],
    ['eu-west', 'only jurisdiction', policy(['us-east'], ['EU']), 'region_not_in_authority', 'allowed', 'allowed'],
    [
      'eu-west',
      'neither',
      policy(['us-east'], ['US']),
      'region_not_in_authority',
      'jurisdiction_not_in_replicas',
      'jurisdiction_not_in_replicas',
    ],
    ['mars', 'none', null, 'region_unknown', 'region_unknown', 'region_unknown'],
    ['mars', 'listed', policy(['mars'], ['EU']), 'region_unknown', 'region_unknown', 'region_unknown'],
    ['mars', 'not listed', policy(['eu-west'], ['EU']), 'region_unknown', 'region_unknown', 'region_unknown'],
  ]
  const cases = table.flatMap(([where, kind, held, ...outcomes]) =>
    holdings.map((holding, column) => ({ where, kind, held, holding, outcome: outcomes[column] })),
  )
  test.each(cases)('$holding in $where, policy $kind: $outcome', ({ where, held, holding, outcome }) => {
    const decision = decidePlacement({ holding, region: region(where) }, [placed('t', held)], regions)
    expect(decision.allowed ? 'allowed' : decision.refusals[0]?.reason).toBe(outcome)
  })
})

test('L4: the promotion of an EU shard into us-east is refused by each tenant, with version, reason and what is legal', () => {
  const decision = decidePlacement({ holding: 'authority', region: region('us-east') }, [globex, acme, tax], regions)
  expect(decision).toEqual({
    allowed: false,
    question: { holding: 'authority', region: 'us-east' },
    refusals: [
      {
        tenant: 'globex-eu',
        domain: 'payroll',
        policyVersion: 3,
        reason: 'region_not_in_authority',
        legal: ['eu-west', 'eu-central'],
        otherwise: 'read-only',
      },
      {
        tenant: 'acme-de',
        domain: 'payroll',
        policyVersion: 1,
        reason: 'region_not_in_authority',
        legal: ['eu-central'],
        otherwise: 'reject',
      },
    ],
  })
})

test('L4: a refusal reads as one line', () => {
  const question = { holding: 'authority', region: region('us-east') } as const
  const [refusal] = refusalsOf(decidePlacement(question, [globex], regions))
  expect(refusal && describeRefusal(question, refusal)).toBe(
    'policy version 3 of tenant globex-eu, domain payroll forbids the authority in us-east; it allows eu-west, eu-central',
  )
})

test('L6: an empty shard may be anywhere the fleet knows, and nowhere else', () => {
  expect(decidePlacement({ holding: 'authority', region: region('us-east') }, [], regions).allowed).toBe(true)
  expect(decidePlacement({ holding: 'authority', region: region('mars') }, [], regions).allowed).toBe(false)
})

describe('what if the primary were lost', () => {
  const follower = (id: string, at: string) => ({ id: id as NodeId, region: region(at) })
  const followers = [follower('s.2', 'us-east'), follower('s.3', 'eu-central'), follower('s.4', 'eu-west')]

  test('legal options come in failover order, refused ones with their refusals', () => {
    const options = whatIf([globex], followers, regions)
    expect(options.legal).toEqual([
      { region: 'eu-west', followers: ['s.4'] },
      { region: 'eu-central', followers: ['s.3'] },
    ])
    expect(options.refused.map((option) => [option.region, option.refusals.length])).toEqual([['us-east', 1]])
    expect(options.withoutFollower).toEqual([])
  })

  test('a shard with different policies is promoted only where all are legal', () => {
    const options = whatIf([globex, acme], followers, regions)
    expect(options.legal.map((option) => option.region)).toEqual(['eu-central'])
    const west = options.refused.find((option) => option.region === 'eu-west')
    expect(west?.refusals.map((refusal) => refusal.tenant)).toEqual(['acme-de'])
  })

  test('no region is legal for contradicting policies', () => {
    expect(whatIf([globex, initech], followers, regions).legal).toEqual([])
  })

  test("the region that is nobody's last resort comes first", () => {
    const one = placed('a', policy(['eu-west', 'eu-central', 'us-east'], ['EU', 'US']))
    const other = placed('b', policy(['us-east', 'eu-central', 'eu-west'], ['EU', 'US']))
    expect(whatIf([one, other], followers, regions).legal.map((option) => option.region)).toEqual([
      'eu-central',
      'eu-west',
      'us-east',
    ])
  })

  test('a legal region without a follower is named', () => {
    expect(whatIf([globex], followers.slice(0, 2), regions).withoutFollower).toEqual(['eu-west'])
  })

  test('a follower in a region that the fleet does not know is no option', () => {
    const options = whatIf([globex], [follower('s.9', 'mars')], regions)
    expect(options.legal).toEqual([])
    expect(options.refused.map((option) => option.region)).toEqual(['mars'])
  })
})

const anyRegion = fc.constantFrom(...regions.keys(), region('mars'))
const anyPolicy: fc.Arbitrary<ResidencyPolicy> = fc.record({
  authority: fc.uniqueArray(anyRegion, { minLength: 1 }),
  replicas: fc.uniqueArray(fc.constantFrom(jurisdiction('EU'), jurisdiction('US'), jurisdiction('CH'))),
  otherwise: fc.constantFrom<Otherwise>('read-only', 'reject'),
})
const anyPlacement = fc
  .record({
    tenant: fc.constantFrom('a', 'b', 'c', 'd', 'e'),
    held: fc.option(anyPolicy),
    version: fc.integer({ min: 1, max: 9 }),
  })
  .map(({ tenant, held, version }) => placed(tenant, held, version))
const anyPlacements = fc.array(anyPlacement, { maxLength: 6 })
const anyQuestion = fc.record({
  holding: fc.constantFrom<Holding>('authority', 'replica', 'backup'),
  region: anyRegion,
})

function refusalsOf(decision: PlacementDecision) {
  return decision.allowed ? [] : decision.refusals
}

test('L1, L2: allowed means that every policy lists the region or its jurisdiction', () => {
  fc.assert(
    fc.property(anyQuestion, anyPlacements, (question, placements) => {
      const lists = (held: ResidencyPolicy) =>
        question.holding === 'authority'
          ? held.authority.some((name) => name === question.region)
          : held.replicas.some((name) => name === regions.get(question.region))
      const expected =
        regions.has(question.region) && placements.every(({ policy: held }) => held === null || lists(held))
      expect(decidePlacement(question, placements, regions).allowed).toBe(expected)
    }),
  )
})

test('L3: more placements never allow what fewer refused', () => {
  fc.assert(
    fc.property(anyQuestion, anyPlacements, anyPlacements, (question, some, more) => {
      const fewer = decidePlacement(question, some, regions).allowed
      expect(decidePlacement(question, [...some, ...more], regions).allowed && !fewer).toBe(false)
    }),
  )
})

test('L4: what a refusal calls legal is allowed for that placement, and the refused region is not among it', () => {
  fc.assert(
    fc.property(anyQuestion, anyPlacement, (question, placement) => {
      for (const refusal of refusalsOf(decidePlacement(question, [placement], regions))) {
        expect(refusal.legal).not.toContain(question.region)
        expect(refusal.legal).toEqual(legalRegions(question.holding, placement.policy, regions))
        for (const legal of refusal.legal) {
          expect(decidePlacement({ ...question, region: legal }, [placement], regions).allowed).toBe(true)
        }
      }
    }),
  )
})

test('L5: fencing what a refusal names makes the rest allowed, when the region is known', () => {
  fc.assert(
    fc.property(anyQuestion, anyPlacements, (question, placements) => {
      const refusals = refusalsOf(decidePlacement(question, placements, regions))
      const rest = placements.filter((placement) => !refusals.some((refusal) => refusal.tenant === placement.tenant))
      expect(decidePlacement(question, rest, regions).allowed).toBe(regions.has(question.region))
    }),
  )
})

test('what if and the decision never disagree, and every follower is in exactly one option', () => {
  const followers = fc
    .array(anyRegion, { maxLength: 5 })
    .map((places) => places.map((place, index) => ({ id: `s.${index + 2}` as NodeId, region: place })))
  fc.assert(
    fc.property(anyPlacements, followers, (placements, places) => {
      const options = whatIf(placements, places, regions)
      for (const { region: at } of options.legal) {
        expect(decidePlacement({ holding: 'authority', region: at }, placements, regions).allowed).toBe(true)
      }
      for (const { region: at } of options.refused) {
        expect(decidePlacement({ holding: 'authority', region: at }, placements, regions).allowed).toBe(false)
      }
      const listed = [...options.legal, ...options.refused].flatMap((option) => option.followers)
      expect(listed.sort()).toEqual(places.map((place) => place.id).sort())
    }),
  )
})

test('a policy survives its JSON form; anything else is a defect', () => {
  fc.assert(
    fc.property(anyPolicy, (held) => {
      expect(policyFromJson(JSON.parse(JSON.stringify(held)))).toEqual(held)
    }),
  )
  expect(() => policyFromJson({ authority: [], replicas: [], otherwise: 'reject' })).toThrow()
  expect(() => policyFromJson({ authority: ['x'], replicas: [], otherwise: 'ignore' })).toThrow()
})
