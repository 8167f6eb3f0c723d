import { expect, test } from 'vitest'
import { firstPolicyVersion } from '../directory/directory.ts'
import type { GovernedPlacement } from '../directory/policy.ts'
import type {
  DomainName,
  Epoch,
  FleetNode,
  HistoryId,
  Jurisdiction,
  NodeId,
  RegionName,
  ShardName,
  ShardTopology,
  TenantName,
} from '../directory/topology.ts'
import { toHlc } from '../hlc/hlc.ts'
import { toLsn } from '../postgres/lsn.ts'
import type { Sighting } from './freshness-watch.ts'
import type { NodeChoice } from './node-choice.ts'
import { rankNodes } from './node-choice.ts'

const [west, central, east] = ['eu-west', 'eu-central', 'us-east'] as [RegionName, RegionName, RegionName]
const regions = new Map([
  [west, 'EU' as Jurisdiction],
  [central, 'EU' as Jurisdiction],
  [east, 'US' as Jurisdiction],
])

const name = 'eu-west/payroll' as ShardName
const node = (number: number, region: RegionName): FleetNode => ({
  id: `${name}.${number}` as NodeId,
  shard: name,
  region,
  role: number === 1 ? 'primary' : 'follower',
  host: '/',
  port: 1,
})

const shard: ShardTopology = {
  name,
  durability: 'quorum',
  epoch: 1 as Epoch,
  historyId: 'h' as HistoryId,
  state: 'open',
  primary: node(1, west),
  followers: [node(2, west), node(3, central), node(4, east)],
}

const european: GovernedPlacement = {
  tenant: 'globex-eu' as TenantName,
  domain: 'payroll' as DomainName,
  policy: { authority: [west], replicas: ['EU' as Jurisdiction], otherwise: 'reject' },
  policyVersion: firstPolicyVersion,
}

const distances: Readonly<Record<string, number>> = {
  'eu-west~eu-central': 12,
  'eu-west~us-east': 80,
  'eu-central~us-east': 90,
}

function ranked(change: Partial<NodeChoice>, seen: Readonly<Record<number, Partial<Sighting>>> = {}): string {
  const choice: NodeChoice = {
    region: west,
    regions,
    placements: [european],
    primaryOnly: false,
    prefer: undefined,
    distanceMs: (from, to) => distances[`${from}~${to}`] ?? distances[`${to}~${from}`] ?? 0,
    sightingOf: (id) => ({ freshness: undefined, lostAtMs: undefined, ...seen[Number(id.at(-1))] }),
    avoid: new Set(),
    demanded: { position: toLsn(100n), closedTimestamp: toHlc(0n) },
    ...change,
  }
  return rankNodes(shard, choice)
    .map(({ id }) => id.at(-1))
    .join(' ')
}

const freshness = (replayed: bigint) => ({
  replayed: toLsn(replayed),
  closedTimestamp: toHlc(0n),
  visible: new Set<never>(),
})

test('R3: a follower where the policy allows no replica is never asked', () => {
  expect(ranked({})).toBe('2 1 3')
  expect(ranked({ region: east })).toBe('2 1 3')
  expect(ranked({ region: east, prefer: node(4, east).id })).toBe('2 1 3')
})

test('R3: of what may be read from one snapshot the strictest policy decides', () => {
  const anywhere = { ...european, policy: null }
  expect(ranked({ placements: [anywhere], region: east })).toBe('4 2 1 3')
  expect(ranked({ placements: [anywhere, european], region: east })).toBe('2 1 3')
})

test('what no policy is about may be read anywhere', () => {
  expect(ranked({ placements: [], region: east })).toBe('4 2 1 3')
})

test('the nearest comes first; at one distance a follower spares the primary', () => {
  expect(ranked({ region: central })).toBe('3 2 1')
})

test('what the caller prefers comes before distance', () => {
  expect(ranked({ prefer: node(3, central).id })).toBe('3 2 1')
})

test('among nodes at one distance, one that was seen behind the frontier comes later', () => {
  expect(ranked({}, { 2: { freshness: freshness(99n) } })).toBe('1 2 3')
  expect(ranked({}, { 2: { freshness: freshness(100n) } })).toBe('2 1 3')
  expect(ranked({ region: central }, { 3: { freshness: freshness(0n) } })).toBe('3 2 1')
})

test('R12: a node that was lost is asked last, until it has answered', () => {
  expect(ranked({ prefer: node(2, west).id }, { 2: { lostAtMs: 8_001 } })).toBe('1 3 2')
  expect(ranked({}, { 2: { lostAtMs: undefined } })).toBe('2 1 3')
})

test('R13: what failed this read is asked after the others, and before what is lost', () => {
  const avoid = new Set([node(2, west).id])
  expect(ranked({ avoid, prefer: node(2, west).id })).toBe('1 3 2')
  expect(ranked({ avoid }, { 3: { lostAtMs: 1 } })).toBe('1 2 3')
})

test('a read of the primary asks nobody else', () => {
  expect(ranked({ primaryOnly: true, prefer: node(2, west).id })).toBe('1')
})
