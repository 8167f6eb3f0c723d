import { describe, expect, test } from 'vitest'
import { checkSessions, judgeSessions } from './session-guarantees.ts'
import type { SessionOperation, SessionRead, SessionWrite } from './session-history.ts'

/** Each guarantee in the smallest history that breaks it, beside one that does not. Clients 0 and 1 on shards a and b. */

const check = (...operations: SessionOperation[]) => checkSessions({ operations }).map(({ kind }) => kind)

/** Acknowledged, with a timestamp after those of the tokens below its own, and nothing carried. */
const write = (register: string, value: number, given: number, more: Partial<SessionWrite> = {}): SessionWrite => ({
  kind: 'write',
  client: Number(register.split('/')[1]),
  carried: [],
  registers: [register],
  value,
  told: 'committed',
  given,
  timestamp: `t${String(given).padStart(3, '0')}`,
  answeredAt: given,
  ...more,
})
const read = (
  carried: readonly number[],
  shown: Record<string, number>,
  more: Partial<SessionRead> = {},
): SessionRead => ({
  kind: 'read',
  client: 0,
  carried,
  given: 1_000,
  level: 'session',
  shown,
  calledAt: 1_000,
  gateway: 'g',
  nodes: ['n'],
  ...more,
})

describe('a session', () => {
  test('reads its own writes, and never goes back', () => {
    expect(check(write('a/0', 1, 1), read([1], { 'a/0': 1 }))).toEqual([])
    expect(check(write('a/0', 1, 1), read([1], { 'a/0': 0 }))).toEqual(['read your writes'])
    const shown = [write('a/1', 1, 1), read([], { 'a/1': 1 }, { given: 2 })]
    expect(check(...shown, read([2], { 'a/1': 0 }))).toEqual(['monotonic reads'])
    expect(check(...shown, read([], { 'a/1': 0 }))).toEqual([])
  })

  test('whose tokens were joined has seen what each of them had', () => {
    const parallel = [write('a/0', 1, 1), write('b/0', 2, 2)]
    expect(check(...parallel, read([1, 2], { 'a/0': 1, 'b/0': 2 }))).toEqual([])
    expect(check(...parallel, read([1, 2], { 'a/0': 1, 'b/0': 0 }))).toEqual(['read your writes'])
    expect(check(...parallel, read([1, 2], { 'a/0': 0, 'b/0': 2 }))).toEqual(['read your writes'])
    expect(check(...parallel, read([1], { 'a/0': 1, 'b/0': 0 }))).toEqual([])
  })

  test('that goes on with the token of another client has seen what that one had', () => {
    expect(check(write('a/1', 1, 1), read([1], { 'a/1': 0 }))).toEqual(['monotonic reads'])
  })

  test.each(['primary', 'strong', 'snapshot', 'causal'] as const)('is kept at %s as well', (level) => {
    expect(check(write('a/0', 1, 1), read([1], { 'a/0': 0 }, { level }))).toContain('read your writes')
  })

  test('is no matter of a stale read, neither what it shows nor what it leaves', () => {
    const stale = read([1], { 'a/0': 0, 'a/1': 1 }, { level: 'stale', given: 3 })
    const writes = [write('a/0', 1, 1), write('a/1', 1, 2)]
    expect(check(...writes, stale, read([3], { 'a/1': 0 }))).toEqual([])
    expect(check(...writes, stale, read([3], { 'a/0': 0 }))).toEqual(['read your writes'])
  })

  test('is shown, at causal, what its sources had seen, and theirs; at session that is not promised', () => {
    const chain = [
      write('b/2', 1, 1),
      write('b/3', 1, 2, { carried: [1] }),
      read([], { 'b/3': 1 }, { given: 3 }),
      write('a/1', 1, 4, { carried: [3] }),
      read([], { 'a/1': 1 }, { given: 5 }),
    ]
    expect(check(...chain, read([5], { 'b/2': 0 }, { level: 'causal' }))).toEqual(['causal', 'closed too early'])
    expect(check(...chain, read([5], { 'b/2': 0 }))).toEqual([])
    expect(check(...chain, read([5], { 'b/2': 1 }, { level: 'causal' }))).toEqual([])
  })

  test('is shown, at causal, all that is closed: what has no later timestamp than it has seen, whoever wrote it', () => {
    const apart = [write('b/1', 1, 1), write('b/1', 2, 3), write('a/0', 1, 2)]
    // The proof of the read says that b is closed at t002 and above.
    expect(check(...apart, read([2], { 'b/1': 0 }, { level: 'causal' }))).toEqual(['closed too early'])
    expect(check(...apart, read([2], { 'b/1': 1 }, { level: 'causal' }))).toEqual([])
    expect(check(...apart, read([2], { 'b/1': 0 }))).toEqual([])
    const seen = [...apart, read([], { 'a/0': 1 }, { given: 4 })]
    expect(check(...seen, read([4], { 'b/1': 0 }, { level: 'causal' }))).toEqual(['closed too early'])
    expect(check(...seen, read([], { 'b/1': 0 }, { level: 'causal' }))).toEqual([])
  })

  test('stamps its writes above what it wrote and above what it saw', () => {
    const first = write('a/0', 1, 1)
    expect(check(first, write('a/0', 2, 2, { carried: [1], timestamp: 't001' }))).toEqual(['monotonic writes'])
    const seen = [write('b/1', 1, 2), read([], { 'b/1': 1 }, { given: 3 })]
    expect(check(...seen, write('a/0', 1, 4, { carried: [3], timestamp: 't001' }))).toEqual(['writes follow reads'])
    expect(check(...seen, write('a/0', 1, 4, { timestamp: 't001' }))).toEqual([])
  })

  test('is shown nothing that nobody wrote, or that was refused', () => {
    expect(check(read([], { 'a/1': 7 }))).toEqual(['nobody wrote'])
    const { given, answeredAt, timestamp, ...rest } = write('a/1', 7, 1)
    expect([given, answeredAt, timestamp]).toEqual([1, 1, 't001'])
    expect(check({ ...rest, told: 'failed' }, read([], { 'a/1': 7 }))).toEqual(['aborted read'])
    expect(check({ ...rest, told: 'unknown' }, read([], { 'a/1': 7 }))).toEqual([])
  })

  test('that is told of a loss has lost what was acknowledged', () => {
    expect(check({ kind: 'told lost', client: 0, why: 'w' })).toEqual(['lost'])
  })
})

test('a strong read shows what was acknowledged to anybody before it was called, and not what came later', () => {
  const strong = (calledAt: number) => check(write('a/1', 1, 5), read([], { 'a/1': 0 }, { level: 'strong', calledAt }))
  expect(strong(6)).toEqual(['strong'])
  expect(strong(4)).toEqual([])
})

test('a stale read shows what was acknowledged up to the time it asked for', () => {
  const stale = (bound: object) => check(write('a/1', 1, 5), read([], { 'a/1': 0 }, { level: 'stale', ...bound }))
  expect(stale({ closedAtLeast: 't005' })).toEqual(['stale'])
  expect(stale({ closedAtLeast: 't004' })).toEqual([])
  expect(stale({})).toEqual([])
})

describe('a snapshot', () => {
  const registers = ['a/1', 'b/1']
  const snapshot = (shown: Record<string, number>) => read([], shown, { level: 'snapshot' })

  test('shows both sides of a transaction, or none', () => {
    const both = write('a/1', 1, 1, { registers })
    expect(check(both, snapshot({ 'a/1': 1, 'b/1': 0 }))).toEqual(['fractured'])
    expect(check(both, snapshot({ 'a/1': 0, 'b/1': 1 }))).toEqual(['fractured'])
    expect(check(both, snapshot({ 'a/1': 1, 'b/1': 1 }))).toEqual([])
    expect(check(both, snapshot({ 'a/1': 0, 'b/1': 0 }))).toEqual([])
    // Two reads of a session are not one snapshot.
    expect(check(both, read([], { 'a/1': 1, 'b/1': 0 }))).toEqual([])
  })

  test('that shows a later write on one side has both sides of those before it', () => {
    const later = [write('a/1', 1, 1, { registers }), write('a/1', 2, 2)]
    expect(check(...later, snapshot({ 'a/1': 2, 'b/1': 0 }))).toEqual(['fractured'])
    expect(check(...later, snapshot({ 'a/1': 2, 'b/1': 1 }))).toEqual([])
  })

  test('may show a side of what nobody knows the end of only with the other', () => {
    const { given, answeredAt, timestamp, ...rest } = write('a/1', 1, 1, { registers })
    expect([given, answeredAt, timestamp]).toEqual([1, 1, 't001'])
    const unknown: SessionWrite = { ...rest, told: 'unknown' }
    expect(check(unknown, snapshot({ 'a/1': 0, 'b/1': 1 }))).toEqual(['fractured'])
    expect(check(unknown, snapshot({ 'a/1': 0, 'b/1': 0 }))).toEqual([])
  })
})

test('a read counts when a late node could have shown it less', () => {
  const { reads } = judgeSessions({ operations: [write('a/0', 1, 1), read([1], { 'a/0': 1 }), read([], { 'a/0': 1 })] })
  expect(reads).toBe(1)
})
