import { describe, expect, test } from 'vitest'
import { toHlc } from '../hlc/hlc.ts'
import { toLsn } from '../postgres/lsn.ts'
import { proofChain, statusOfChain } from './proof-chain.ts'
import type { ArchiveFacts, BranchFacts, NodeFacts, ProofFacts, ShardFacts } from './proof-facts.ts'
import { known, unknown } from './proof-facts.ts'
import type { ProofLinkName, ProofStatus } from './proof-link.ts'
import { proofLinkNames } from './proof-link.ts'

const home = 'eu-west/payroll'
const far = 'us-east/treasury'
const committedAt = toHlc(100n)
const later = toHlc(200n)

const branch: BranchFacts = {
  state: 'committed',
  prepareTimestamp: toHlc(90n),
  commitTimestamp: committedAt,
  epoch: 1,
  accepted: null,
}
const accepted = { actor: 'ops', reason: 'ticket 4711', clockBefore: toHlc(50n) }

const shard: ShardFacts = {
  epoch: 1,
  historyId: 'h1',
  closedTimestamp: later,
  collectedThroughMs: 0,
  histories: [{ historyId: 'h1', epoch: 1, leftOut: false }],
}

const archive: ArchiveFacts = {
  region: 'eu-west',
  redo: { commitLsn: toLsn(50n), endLsn: toLsn(60n) },
  redoClosed: later,
  backup: { id: 'b1', startLsn: toLsn(10n) },
  wal: { contiguousThrough: toLsn(70n), gaps: 0, checksumFailures: 0 },
}

const drill = { name: 'd1', at: '2026-04-03T00:00:00.000Z', coveredThrough: later, found: true, ok: true }

/** An approval that everything is known about, and everything is as it should be. */
const whole: ProofFacts = {
  transactionId: '0196abcd-0000-7000-8000-000000000000',
  commit: known({ home, commitTimestamp: committedAt, epoch: 1, participants: [far] }),
  record: known({ outcome: 'COMMITTED', commitTimestamp: committedAt, homeEpoch: 1, reason: '' }),
  branches: [{ shard: far, branch: known(branch) }],
  shards: [home, far].map((name) => ({ shard: name, state: known(shard) })),
  placements: [
    { domain: 'payroll', shard: home, region: 'eu-west' },
    { domain: 'treasury', shard: far, region: 'us-east' },
  ].map(({ domain, shard: on, region }) => ({
    shard: on,
    domain,
    version: 1,
    directory: { shard: on, version: 1, policyVersion: 1, region, refusal: null },
  })),
  nodes: [home, far].flatMap((name) => [nodeOf(name, 'primary', true), nodeOf(name, 'follower', true)]),
  archives: [home, far].map((name) => ({ shard: name, archive: known(archive) })),
  effects: known({
    emitted: [{ eventId: 'e1', name: 'payroll.approved' }],
    deliveries: [{ eventId: 'e1', state: 'delivered', timesDelivered: 1 }],
    receiver: true,
  }),
  drill: known({ ...drill, invariants: [{ name: 'journal-balances', violations: 0 }] }),
}

function nodeOf(of: string, role: NodeFacts['role'], visible: boolean, closed = later): NodeFacts {
  return { node: `${of}.${role}`, shard: of, role, seen: known({ visible, closedTimestamp: closed }) }
}

function withBranch(facts: BranchFacts): Partial<ProofFacts> {
  return { branches: [{ shard: far, branch: known(facts) }] }
}

function withShard(name: string, change: Partial<ShardFacts>): Partial<ProofFacts> {
  return {
    shards: [home, far].map((each) => ({ shard: each, state: known(each === name ? { ...shard, ...change } : shard) })),
  }
}

function withArchive(change: Partial<ArchiveFacts>): Partial<ProofFacts> {
  return { archives: [home, far].map((each) => ({ shard: each, archive: known({ ...archive, ...change }) })) }
}

function withPlacement(change: {
  version?: number
  directory?: Partial<NonNullable<ProofFacts['placements'][number]['directory']>> | null
}) {
  const [first, ...rest] = whole.placements
  if (first?.directory === null || first === undefined) throw new Error('the base has a placement')
  const directory = change.directory === null ? null : { ...first.directory, ...change.directory }
  return { placements: [{ ...first, version: change.version ?? first.version, directory }, ...rest] }
}

function withEffects(change: Partial<Extract<ProofFacts['effects'], { known: true }>['value']>): Partial<ProofFacts> {
  if (!whole.effects.known) throw new Error('the base knows its effects')
  return { effects: known({ ...whole.effects.value, ...change }) }
}

const record = { outcome: 'COMMITTED', commitTimestamp: committedAt, homeEpoch: 1, reason: '' } as const
const aborted = known({ outcome: 'ABORTED', commitTimestamp: null, homeEpoch: 1, reason: 'presumed' } as const)
const invariants = [{ name: 'journal-balances', violations: 0 }]

const cases: readonly [ProofLinkName, ProofStatus, string, Partial<ProofFacts>][] = [
  ['placement', 'broken', 'it was written at a version the directory never had', withPlacement({ version: 2 })],
  [
    'placement',
    'broken',
    'the directory has that version on another shard',
    withPlacement({ directory: { shard: far } }),
  ],
  ['placement', 'broken', 'the policy forbids the region', withPlacement({ directory: { refusal: 'forbidden' } })],
  ['placement', 'pending', 'the placement moved on since', withPlacement({ directory: { version: 2 } })],
  ['placement', 'pending', 'the directory has no such placement', withPlacement({ directory: null })],
  ['placement', 'pending', 'nothing is known of its placements', { placements: [] }],
  [
    'authority',
    'broken',
    'a cutover left it out',
    withShard(far, { histories: [{ historyId: 'h1', epoch: 1, leftOut: true }] }),
  ],
  ['authority', 'broken', 'its epoch lies above that of the shard', withBranch({ ...branch, epoch: 2 })],
  [
    'authority',
    'broken',
    'no history reaches back to it',
    withShard(home, { histories: [{ historyId: 'h2', epoch: 2, leftOut: false }] }),
  ],
  ['authority', 'pending', 'a branch is not committed', withBranch({ state: 'prepared' })],
  ['authority', 'proven', 'the shard has had promotions since', withShard(home, { epoch: 3 })],
  ['order', 'broken', 'a branch has another timestamp', withBranch({ ...branch, commitTimestamp: later })],
  ['order', 'broken', 'a prepare is not below the commit', withBranch({ ...branch, prepareTimestamp: committedAt })],
  ['order', 'broken', 'the record has another timestamp', { record: known({ ...record, commitTimestamp: later }) }],
  ['order', 'pending', 'the home has not closed it', withShard(home, { closedTimestamp: toHlc(99n) })],
  ['order', 'proven', 'somebody let the clock of a participant pass it', withBranch({ ...branch, accepted })],
  ['order', 'proven', 'the home has closed exactly it', withShard(home, { closedTimestamp: committedAt })],
  ['decision', 'broken', 'a branch is gone', withBranch({ state: 'absent' })],
  ['decision', 'broken', 'the record says aborted', { record: aborted }],
  ['decision', 'broken', 'there is no record', { record: known(null) }],
  ['decision', 'broken', 'a branch committed what was aborted', { commit: known(null), record: aborted }],
  ['decision', 'broken', 'a branch committed what nobody decided', { commit: known(null), record: known(null) }],
  ['decision', 'broken', 'the record has no commit', { commit: known(null) }],
  ['decision', 'pending', 'a branch waits to be settled', withBranch({ state: 'prepared' })],
  [
    'decision',
    'pending',
    'nobody decided it yet',
    { commit: known(null), record: known(null), ...withBranch({ state: 'prepared' }) },
  ],
  [
    'decision',
    'proven',
    'it was aborted everywhere',
    { commit: known(null), record: aborted, ...withBranch({ state: 'absent' }) },
  ],
  [
    'decision',
    'proven',
    'its record was collected',
    { record: known(null), ...withShard(home, { collectedThroughMs: 2 ** 47 }) },
  ],
  ['visibility', 'broken', 'a node is past it without it', { nodes: [nodeOf(home, 'follower', false)] }],
  [
    'visibility',
    'pending',
    'a follower has not applied it',
    { nodes: [nodeOf(home, 'primary', true), nodeOf(home, 'follower', false, toHlc(99n))] },
  ],
  ['visibility', 'pending', 'no node was asked', { nodes: [] }],
  ['durability', 'broken', 'the redo stream passed without it', withArchive({ redo: null })],
  [
    'durability',
    'broken',
    'the log has a gap before it',
    withArchive({ wal: { contiguousThrough: toLsn(40n), gaps: 1, checksumFailures: 0 } }),
  ],
  [
    'durability',
    'broken',
    'the log fails its checksums',
    withArchive({ wal: { contiguousThrough: toLsn(70n), gaps: 0, checksumFailures: 1 } }),
  ],
  ['durability', 'pending', 'the redo stream has not reached it', withArchive({ redo: null, redoClosed: toHlc(99n) })],
  ['durability', 'pending', 'the redo stream is empty', withArchive({ redo: null, redoClosed: null })],
  ['durability', 'pending', 'there is no base backup before it', withArchive({ backup: null })],
  ['durability', 'pending', 'the log was not audited', withArchive({ wal: null })],
  [
    'durability',
    'pending',
    'the log ends in the middle of it',
    withArchive({ wal: { contiguousThrough: toLsn(59n), gaps: 0, checksumFailures: 0 } }),
  ],
  ['durability', 'pending', 'a shard has no archive', { archives: [{ shard: home, archive: known(archive) }] }],
  [
    'effects',
    'broken',
    'an effect was delivered twice',
    withEffects({ deliveries: [{ eventId: 'e1', state: 'delivered', timesDelivered: 2 }] }),
  ],
  ['effects', 'broken', 'an effect lost its cause', withEffects({ emitted: [] })],
  [
    'effects',
    'pending',
    'an effect failed so far',
    withEffects({ deliveries: [{ eventId: 'e1', state: 'failed', timesDelivered: 0 }] }),
  ],
  ['effects', 'pending', 'nobody receives effects', withEffects({ deliveries: [], receiver: false })],
  ['effects', 'proven', 'it causes none', withEffects({ emitted: [], deliveries: [] })],
  ['recovery', 'broken', 'a drill did not rebuild it', { drill: known({ ...drill, invariants, found: false }) }],
  [
    'recovery',
    'broken',
    'an invariant did not hold',
    { drill: known({ ...drill, invariants: [{ name: 'journal-balances', violations: 3 }] }) },
  ],
  ['recovery', 'broken', 'the drill failed', { drill: known({ ...drill, invariants, ok: false }) }],
  ['recovery', 'pending', 'no drill covered it', { drill: known(null) }],
  [
    'recovery',
    'pending',
    'the drill stopped before it',
    { drill: known({ ...drill, invariants, coveredThrough: toHlc(99n) }) },
  ],
  ['recovery', 'pending', 'the drill checked nothing', { drill: known({ ...drill, invariants: [] }) }],
]

function statusOf(link: ProofLinkName, facts: ProofFacts): ProofStatus | undefined {
  return proofChain(facts).find((each) => each.link === link)?.status
}

describe('the chain of an approval about which everything is known', () => {
  test('V1: has all eight links in order, each proven', () => {
    const links = proofChain(whole)
    expect(links.map(({ link, status }) => [link, status])).toEqual(proofLinkNames.map((link) => [link, 'proven']))
    expect(statusOfChain(links)).toBe('proven')
  })

  test('survives JSON', () => {
    const links = proofChain(whole)
    expect(JSON.parse(JSON.stringify(links))).toEqual(links)
  })
})

describe('a link', () => {
  test.each(cases)('%s is %s when %s', (link, status, _, change) => {
    expect(statusOf(link, { ...whole, ...change })).toBe(status)
  })

  test.each(proofLinkNames)('V2: %s is pending when the commit is not known', (link) => {
    expect(statusOf(link, { ...whole, commit: unknown('silence') })).toBe('pending')
  })

  const silences: readonly [ProofLinkName, string, Partial<ProofFacts>][] = [
    [
      'authority',
      'a shard',
      {
        shards: [
          { shard: home, state: known(shard) },
          { shard: far, state: unknown('silence') },
        ],
      },
    ],
    ['authority', 'a branch', { branches: [{ shard: far, branch: unknown('silence') }] }],
    ['order', 'a branch', { branches: [{ shard: far, branch: unknown('silence') }] }],
    ['order', 'the home', { shards: [{ shard: home, state: unknown('silence') }] }],
    ['order', 'the record', { record: unknown('silence') }],
    ['decision', 'the record', { record: unknown('silence') }],
    ['decision', 'a branch', { branches: [{ shard: far, branch: unknown('silence') }] }],
    [
      'visibility',
      'a node',
      {
        nodes: [nodeOf(home, 'primary', true), { node: 'n', shard: home, role: 'follower', seen: unknown('silence') }],
      },
    ],
    [
      'durability',
      'an archive',
      {
        archives: [
          { shard: home, archive: known(archive) },
          { shard: far, archive: unknown('silence') },
        ],
      },
    ],
    ['effects', 'the journal', { effects: unknown('silence') }],
    ['recovery', 'the reports', { drill: unknown('silence') }],
  ]
  test.each(silences)('V2: %s is pending when %s is silent', (link, _, change) => {
    expect(statusOf(link, { ...whole, ...change })).toBe('pending')
  })
})
