import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { GovernedPlacement, PolicyVersion } from '../directory/policy.ts'
import type { DomainName, Epoch, Jurisdiction, NodeId, RegionName, TenantName } from '../directory/topology.ts'
import { toLsn } from '../postgres/lsn.ts'
import { type Candidate, decideTarget, findHeld, planPromotion, type ShardUnderFailover } from './failover.ts'

const region = (name: string) => name as RegionName
const regions = new Map(
  Object.entries({ 'eu-west': 'EU', 'eu-central': 'EU', 'us-east': 'US' }) as [RegionName, Jurisdiction][],
)
const globex: GovernedPlacement = {
  tenant: 'globex-eu' as TenantName,
  domain: 'payroll' as DomainName,
  policy: {
    authority: [region('eu-west'), region('eu-central')],
    replicas: ['EU' as Jurisdiction],
    otherwise: 'read-only',
  },
  policyVersion: 3 as PolicyVersion,
}
const payroll: ShardUnderFailover = {
  durability: 'quorum',
  acknowledgements: 1,
  primary: { id: 'eu-west/payroll.1' as NodeId, region: region('eu-west') },
  followers: [
    { id: 'eu-west/payroll.2' as NodeId, region: region('eu-west') },
    { id: 'eu-central/payroll.3' as NodeId, region: region('eu-central') },
  ],
}

describe('V1: the target is legal', () => {
  test('a region outside the policy is refused with the policy and its version', () => {
    const decision = decideTarget(payroll, [globex], regions, region('us-east'))
    expect(decision).toMatchObject({
      kind: 'refused',
      refusals: [{ tenant: 'globex-eu', policyVersion: 3, reason: 'region_not_in_authority' }],
    })
  })
  test('without a wish, legal regions in failover order', () => {
    expect(decideTarget(payroll, [globex], regions, undefined)).toEqual({
      kind: 'promote',
      regions: ['eu-west', 'eu-central'],
    })
  })
  test('a legal region without a follower is told apart', () => {
    const alone = { ...payroll, followers: payroll.followers.slice(0, 1) }
    expect(decideTarget(alone, [globex], regions, region('eu-central'))).toMatchObject({ kind: 'no_follower' })
  })
  test('when no region is legal, all refusals are named', () => {
    const elsewhere = { ...payroll, followers: [{ id: 'x.9' as NodeId, region: region('us-east') }] }
    expect(decideTarget(elsewhere, [globex], regions, undefined)).toMatchObject({
      kind: 'none_legal',
      refused: [{ region: 'us-east' }],
    })
  })
})

const candidate = (id: string, at: string, received: bigint | null, counted = true): Candidate => ({
  id: id as NodeId,
  region: region(at),
  counted,
  received: received === null ? null : toLsn(received),
})

describe('V2 and V3: nothing that was acknowledged is left behind', () => {
  test('with one of two silent, a commit may be on it alone', () => {
    const plan = planPromotion([candidate('a', 'eu-west', 5n), candidate('b', 'eu-central', null)], 1, [
      region('eu-west'),
    ])
    expect(plan).toEqual({ kind: 'unsafe', answered: 1, needed: 2 })
  })
  test('with none left that counts, another may lack what they acknowledged', () => {
    const plan = planPromotion([candidate('a', 'eu-west', 5n, false)], 1, [region('eu-west')])
    expect(plan).toEqual({ kind: 'unsafe', answered: 0, needed: 1 })
  })
  test('the legal target fetches what a more advanced follower has', () => {
    const plan = planPromotion([candidate('a', 'eu-west', 9n), candidate('b', 'eu-central', 5n)], 1, [
      region('eu-central'),
    ])
    expect(plan).toEqual({ kind: 'promote', promote: 'b', source: 'a' })
  })
  test('any commit on k of n counted followers is on the source', () => {
    const scenario = fc.integer({ min: 1, max: 5 }).chain((n) =>
      fc.record({
        k: fc.integer({ min: 1, max: n }),
        received: fc.array(fc.option(fc.bigInt({ min: 0n, max: 9n })), { minLength: n, maxLength: n }),
        acknowledgedBy: fc.shuffledSubarray([...Array(n).keys()]),
        commit: fc.bigInt({ min: 1n, max: 9n }),
      }),
    )
    fc.assert(
      fc.property(scenario, ({ k, received, acknowledgedBy, commit }) => {
        const holders = acknowledgedBy.slice(0, k)
        fc.pre(holders.length === k)
        // A holder that answers has the commit.
        const consistent = received.every((at, i) => !holders.includes(i) || at === null || at >= commit)
        fc.pre(consistent)
        const plan = planPromotion(
          received.map((at, i) => candidate(String(i), 'eu-west', at)),
          k,
          [region('eu-west')],
        )
        if (plan.kind !== 'promote') return true
        return (received[Number(plan.source)] ?? -1n) >= commit
      }),
    )
  })
})

describe('V8: a shard that its data says is held', () => {
  const at = (epoch: number, state: 'open' | 'fenced') => ({ epoch: epoch as Epoch, state })
  test.each([
    ['open as the topology has it', [at(2, 'open')], undefined],
    ['a follower that is late', [at(2, 'open'), at(1, 'open'), at(1, 'fenced')], undefined],
    ['nobody answers', [], undefined],
    ['closed', [at(2, 'open'), at(2, 'fenced')], at(2, 'fenced')],
    ['fenced at a later epoch', [at(2, 'open'), at(3, 'fenced')], at(3, 'fenced')],
    ['open at a later epoch', [at(3, 'open')], at(3, 'open')],
  ] as const)('%s', (_, nodes, held) => {
    expect(findHeld(2 as Epoch, nodes)).toEqual(held)
  })
})
