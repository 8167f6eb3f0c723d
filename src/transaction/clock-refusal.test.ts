import { expect, test } from 'vitest'
import type { ShardName } from '../directory/topology.ts'
import { hlcFromWallMs, hlcZero, toHlc } from '../hlc/hlc.ts'
import { explainRefusal, refusalOf, remedyOf } from './clock-refusal.ts'

const home = 'eu-west/payroll' as ShardName
const participant = 'us-east/treasury' as ShardName
const other = 'eu-west/other' as ShardName

const wallMs = Date.UTC(2026, 3, 2, 10)
const hourMs = 3_600_000
const at = (ms: number) => hlcFromWallMs(wallMs + ms)
const reading = { clock: at(0), wall: at(0), maxClockOffsetMs: 500, accepted: hlcZero }
const decided = at(hourMs)
const refusal = { commitTimestamp: decided, aheadMs: hourMs, allowedMs: 1_500 }

test.each([
  ['ahead of both walls', decided, reading, at(0), refusal],
  ['ahead of the nearer wall', decided, reading, at(hourMs - 1_501), { ...refusal, aheadMs: 1_501 }],
  ['by no more than is adopted', decided, reading, at(hourMs - 1_500), undefined],
  ['below the clock', decided, { ...reading, clock: decided }, at(0), undefined],
  ['accepted', decided, { ...reading, accepted: decided }, at(0), undefined],
  ['above what was accepted', decided, { ...reading, accepted: toHlc(decided - 1n) }, at(0), refusal],
] as const)('C6, C8: a decided timestamp %s', (_, timestamp, shard, witness, expected) => {
  expect(refusalOf(timestamp, shard, witness)).toEqual(expected)
})

const none = new Map<ShardName, typeof decided>()
const right = new Map([
  [home, at(0)],
  [other, at(1)],
])

test.each([
  ['nothing in the commit log', undefined, right, { kind: 'mend record', logged: undefined }],
  ['another time in the commit log', at(1), right, { kind: 'mend record', logged: at(1) }],
  ['home still ahead', decided, new Map(right).set(home, decided), { kind: 'set walls', agreeing: [home] }],
  [
    'a wall that just agrees',
    decided,
    new Map([[other, at(hourMs - 1_500)]]),
    { kind: 'set walls', agreeing: [other] },
  ],
  ['a wall that just does not', decided, new Map([[other, at(hourMs - 1_501)]]), { kind: 'accept' }],
  ['every wall right', decided, right, { kind: 'accept' }],
  ['nobody else to ask', decided, none, { kind: 'accept' }],
] as const)('C8: the way out with %s', (_, logged, walls, expected) => {
  expect(remedyOf(refusal, logged, walls)).toEqual(expected)
})

test.each([
  [{ kind: 'mend record', logged: undefined }, /payroll does not have it: put the record right/],
  [{ kind: 'mend record', logged: at(1) }, /payroll has it at 2026-04-02T10:00:00.001Z\+0000: put/],
  [{ kind: 'set walls', agreeing: [home, other] }, /of eu-west\/payroll and eu-west\/other agrees with it/],
  [{ kind: 'accept' }, /when 3598500 ms have passed, or at once by holdfast resolve --accept-clock us-east\/treasury/],
] as const)('%o is said with what is refused, and by how much', (remedy, expected) => {
  const told = explainRefusal({ home, participant }, refusal, remedy)
  expect(told).toMatch(/COMMITTED at 2026-04-02T11:00:00.000Z\+0000, 3600000 ms ahead .*adopts up to 1500 ms/)
  expect(told).toMatch(expected)
})
