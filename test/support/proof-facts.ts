import fc from 'fast-check'
import type { BranchFacts, Known, ProofFacts } from '../../src/evidence/proof-facts.ts'
import { known, unknown } from '../../src/evidence/proof-facts.ts'
import { toHlc } from '../../src/hlc/hlc.ts'
import { toLsn } from '../../src/postgres/lsn.ts'

/** Facts of every shape, also such as cannot be: the verdicts must be total. */
const timestamp = fc.constantFrom(99n, 100n, 101n).map(toHlc)
const position = fc.constantFrom(40n, 50n, 60n, 70n).map(toLsn)
const name = fc.constantFrom('eu-west/payroll', 'us-east/treasury')
const count = fc.nat(2)

export const anyFacts: fc.Arbitrary<ProofFacts> = fc.record({
  transactionId: fc.constant('0196abcd-0000-7000-8000-000000000000'),
  commit: fc
    .option(fc.record({ home: name, commitTimestamp: timestamp, epoch: count, participants: fc.uniqueArray(name) }))
    .map(known),
  record: fc
    .option(
      fc.record({
        outcome: fc.constantFrom('COMMITTED' as const, 'ABORTED' as const),
        commitTimestamp: fc.option(timestamp),
        homeEpoch: count,
        reason: fc.string(),
      }),
    )
    .map(known),
  branches: fc.array(
    fc.record({
      shard: name,
      branch: fc
        .oneof(
          fc.record({ state: fc.constantFrom('prepared' as const, 'absent' as const) }),
          fc.record({
            state: fc.constant('committed' as const),
            prepareTimestamp: timestamp,
            commitTimestamp: timestamp,
            epoch: count,
            accepted: fc.option(fc.record({ actor: fc.string(), reason: fc.string(), clockBefore: timestamp })),
          }),
        )
        .map((facts) => known<BranchFacts>(facts)),
    }),
    { maxLength: 2 },
  ),
  shards: fc.array(
    fc.record({
      shard: name,
      state: fc
        .record({
          epoch: count,
          historyId: fc.string(),
          closedTimestamp: timestamp,
          collectedThroughMs: fc.constantFrom(0, 2 ** 47),
          histories: fc.array(fc.record({ historyId: fc.string(), epoch: count, leftOut: fc.boolean() }), {
            maxLength: 2,
          }),
        })
        .map(known),
    }),
    { maxLength: 2 },
  ),
  placements: fc.array(
    fc.record({
      shard: name,
      domain: fc.constantFrom('payroll', 'treasury'),
      version: count,
      directory: fc.option(
        fc.record({
          shard: name,
          version: count,
          policyVersion: count,
          region: fc.string(),
          refusal: fc.option(fc.string()),
        }),
      ),
    }),
    { maxLength: 2 },
  ),
  nodes: fc.array(
    fc.record({
      node: fc.string(),
      shard: name,
      role: fc.constantFrom('primary' as const, 'follower' as const),
      seen: fc.record({ visible: fc.boolean(), closedTimestamp: timestamp }).map(known),
    }),
    { maxLength: 3 },
  ),
  archives: fc.array(
    fc.record({
      shard: name,
      archive: fc
        .record({
          region: fc.string(),
          redo: fc.option(fc.record({ commitLsn: position, endLsn: position })),
          redoClosed: fc.option(timestamp),
          backup: fc.option(fc.record({ id: fc.string(), startLsn: position })),
          wal: fc.option(fc.record({ contiguousThrough: position, gaps: count, checksumFailures: count })),
        })
        .map(known),
    }),
    { maxLength: 2 },
  ),
  effects: fc
    .record({
      emitted: fc.array(fc.record({ eventId: fc.constantFrom('e1', 'e2'), name: fc.string() }), { maxLength: 2 }),
      deliveries: fc.array(
        fc.record({
          eventId: fc.constantFrom('e1', 'e2'),
          state: fc.constantFrom('sending' as const, 'delivered' as const, 'failed' as const),
          timesDelivered: count,
        }),
        { maxLength: 2 },
      ),
      receiver: fc.boolean(),
    })
    .map(known),
  drill: fc
    .option(
      fc.record({
        name: fc.string(),
        at: fc.string(),
        coveredThrough: timestamp,
        found: fc.boolean(),
        ok: fc.boolean(),
        invariants: fc.array(fc.record({ name: fc.string(), violations: count }), { maxLength: 2 }),
      }),
    )
    .map(known),
})

/** The same facts with some of them silent: which, a mask says. */
export function silenced(facts: ProofFacts, mask: number): ProofFacts {
  let bit = 0
  const maybe = <T>(value: Known<T>): Known<T> => {
    bit += 1
    return (mask >> (bit - 1)) & 1 ? unknown('silence') : value
  }
  return {
    ...facts,
    commit: maybe(facts.commit),
    record: maybe(facts.record),
    branches: facts.branches.map((each) => ({ ...each, branch: maybe(each.branch) })),
    shards: facts.shards.map((each) => ({ ...each, state: maybe(each.state) })),
    nodes: facts.nodes.map((each) => ({ ...each, seen: maybe(each.seen) })),
    archives: facts.archives.map((each) => ({ ...each, archive: maybe(each.archive) })),
    effects: maybe(facts.effects),
    drill: maybe(facts.drill),
  }
}
