import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { NodeId, RegionName } from '../directory/topology.ts'
import { planPromotion } from '../failover/failover.ts'
import { toLsn } from '../postgres/lsn.ts'
import { countsForCommits, synchronousStandbyNames } from './node-settings.ts'

const region = (name: string) => name as RegionName
const node = (id: string) => id as NodeId

describe('whom commits wait for', () => {
  test('nobody left to wait for stops the writes', () => {
    const beside = [{ id: node('a'), region: region('eu-west') }]
    const shard = { durability: 'quorum', survive: 'region' } as const
    expect(synchronousStandbyNames(shard, region('eu-west'), beside)).toBe('ANY 1 ("no-legal-follower")')
    expect(synchronousStandbyNames({ ...shard, survive: 'node' }, region('eu-west'), beside)).toBe('ANY 1 ("a")')
  })

  test('under `survive: region` any commit that left the region is on the source, wherever followers are and whoever answers', () => {
    const regionsOfShard = ['eu-west', 'eu-central', 'us-east'] as const
    const follower = fc.record({
      at: fc.constantFrom(...regionsOfShard),
      // What it has beyond the commit, if it acknowledged it; what it has at all, if not.
      received: fc.bigInt({ min: 0n, max: 9n }),
      answers: fc.boolean(),
      acknowledged: fc.boolean(),
    })
    const scenario = fc.record({
      primary: fc.constantFrom(...regionsOfShard),
      followers: fc.array(follower, { minLength: 1, maxLength: 6 }),
      commit: fc.bigInt({ min: 1n, max: 9n }),
      legal: fc.shuffledSubarray([...regionsOfShard], { minLength: 1 }),
    })
    let promoted = 0
    fc.assert(
      fc.property(scenario, ({ primary, followers, commit, legal }) => {
        const shard = { durability: 'quorum', survive: 'region' } as const
        const isCounted = (at: string) => countsForCommits(shard, region(primary), { region: region(at) })
        // Acknowledged: somebody in another region has it.
        fc.pre(followers.some(({ acknowledged, at }) => acknowledged && at !== primary))
        const has = followers.map(({ acknowledged, received }) => (acknowledged ? commit + received : received))
        const plan = planPromotion(
          followers.map(({ at, answers }, index) => ({
            id: node(String(index)),
            region: region(at),
            counted: isCounted(at),
            received: answers ? toLsn(has[index] ?? 0n) : null,
          })),
          1,
          legal.map(region),
        )
        if (plan.kind !== 'promote') return true
        promoted++
        return (has[Number(plan.source)] ?? -1n) >= commit
      }),
      { numRuns: 2_000 },
    )
    expect(promoted).toBeGreaterThan(100)
  })
})
