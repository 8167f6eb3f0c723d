import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { anyFacts, silenced } from '../../test/support/proof-facts.ts'
import { proofChain, statusOfChain } from './proof-chain.ts'
import { proofLinkNames } from './proof-link.ts'

describe('for facts of every shape', () => {
  test('V1: every link has a verdict and a reason', () => {
    fc.assert(
      fc.property(anyFacts, fc.nat(0xffff), (facts, mask) => {
        const links = proofChain(silenced(facts, mask))
        expect(links.map(({ link }) => link)).toEqual(proofLinkNames)
        for (const { reason } of links) expect(reason).toBeTypeOf('string')
      }),
    )
  })

  test('V2, V4: silence makes a verdict pending or leaves it; it never proves and never breaks', () => {
    fc.assert(
      fc.property(anyFacts, fc.nat(0xffff), (facts, mask) => {
        const spoken = proofChain(facts)
        for (const [index, { link, status }] of proofChain(silenced(facts, mask)).entries()) {
          if (status !== 'pending') expect([link, status]).toEqual([link, spoken[index]?.status])
        }
      }),
      { numRuns: 2_000 },
    )
  })

  test('a chain is broken when a link is, proven only when all are', () => {
    fc.assert(
      fc.property(anyFacts, (facts) => {
        const links = proofChain(facts)
        const statuses = new Set(links.map(({ status }) => status))
        const expected = statuses.has('broken') ? 'broken' : statuses.has('pending') ? 'pending' : 'proven'
        expect(statusOfChain(links)).toBe(expected)
      }),
    )
  })
})
