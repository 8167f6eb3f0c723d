import { describe, expect, test } from 'vitest'
import { checkBank } from './bank.ts'
import { checkCanaries } from './canaries.ts'
import type { ClickHistory } from './clicks.ts'
import { checkClicks } from './clicks.ts'
import { checkClosed } from './closed-readings.ts'
import type { MicroOperation, Operation, Violation } from './history.ts'
import { checkListsOverShards } from './lists-over-shards.ts'
import { checkSet } from './set.ts'
import { checkTellings } from './tellings.ts'
import { checkTimestamps } from './timestamps.ts'

/** Each checker of a fleet's histories names what it is for in the smallest history that has it, and is silent beside it. */

const kinds = (violations: readonly Violation[]) => violations.map(({ kind }) => kind)

test('an outcome that was told is the outcome that is found, and an unknown one is found twice the same', () => {
  const telling = (told: 'committed' | 'failed' | 'unknown', ...asked: string[]) =>
    kinds(checkTellings([{ transactionId: 't', told, asked }]))
  expect(telling('committed', 'committed')).toEqual([])
  expect(telling('failed', 'none')).toEqual([])
  expect(telling('unknown', 'aborted', 'refused')).toEqual([])
  expect(telling('committed', 'none')).toEqual(['outcome'])
  expect(telling('failed', 'committed')).toEqual(['outcome'])
  expect(telling('unknown', 'in_doubt', 'in_doubt')).toEqual(['outcome'])
  expect(telling('unknown', 'none', 'committed')).toEqual(['outcome'])
})

test('money that is missing, or below zero, is seen in any snapshot', () => {
  const look = (left: number, right: number, leastCents = 0) =>
    kinds(
      checkBank({
        totalCents: 10,
        looks: [{ when: 'during', shards: [left, right].map((cents) => ({ cents, leastCents })) }],
        tellings: [],
        replays: [],
      }),
    )
  expect(look(3, 7)).toEqual([])
  expect(look(3, 6)).toEqual(['money'])
  expect(look(3, 7, -1)).toEqual(['money'])
})

describe('a set', () => {
  const both = ['left', 'right']
  const set = (told: 'committed' | 'failed' | 'unknown', last: string[], again?: 'committed' | 'failed' | 'unknown') =>
    kinds(
      checkSet({
        adds: [{ element: 'e', sets: both, told, ...(again === undefined ? {} : { again }) }],
        last,
        tellings: [],
      }),
    )

  test('holds what was acknowledged, once, and nothing of what was refused', () => {
    expect(set('committed', ['left e', 'right e'])).toEqual([])
    expect(set('failed', [])).toEqual([])
    expect(set('committed', [])).toEqual(['lost'])
    expect(set('failed', ['left e', 'right e'])).toEqual(['aborted'])
    expect(set('committed', ['left e', 'left e', 'right e'])).toEqual(['twice'])
    expect(set('committed', ['left e', 'right e', 'left f'])).toEqual(['unwritten'])
  })

  test('has all of an add or nothing', () => {
    expect(set('unknown', ['left e'], 'committed')).toEqual(['half'])
  })

  test('holds what was acknowledged when it was sent again, and leaves nothing unresolved', () => {
    const all = ['left e', 'right e']
    expect(set('unknown', all, 'committed')).toEqual([])
    expect(set('unknown', [], 'committed')).toEqual(['lost'])
    expect(set('unknown', [], 'unknown')).toEqual(['unresolved'])
    expect(set('unknown', all, 'unknown')).toEqual(['unresolved'])
  })

  test('acknowledges what is sent again with its key: a refusal is none of an add that may be there', () => {
    expect(set('unknown', [], 'failed')).toEqual(['unresolved'])
    expect(set('unknown', ['left e', 'right e'], 'failed')).toEqual(['aborted'])
  })

  test('asks of every add that nobody could tell of', () => {
    expect(set('unknown', [])).toEqual(['unresolved'])
    expect(set('unknown', ['left e', 'right e'])).toEqual(['unresolved'])
  })
})

describe('a click', () => {
  const arrival = (more: Partial<ClickHistory['arrivals'][number]> = {}): ClickHistory['arrivals'][number] => ({
    run: 'r',
    key: 'k',
    invokedAt: 0,
    completedAt: 1,
    told: 'committed',
    transactionId: 't',
    code: undefined,
    ...more,
  })
  const refused = { told: 'failed', transactionId: undefined, code: 'transaction_refused' } as const
  const check = (arrivals: ClickHistory['arrivals'], approved = ['r'], violations = 0) =>
    kinds(checkClicks({ arrivals, approved, invariants: [{ name: 'i', violations }] }))

  test('has one answer, also when it arrives again', () => {
    expect(check([arrival(), arrival({ invokedAt: 2, completedAt: 3 })])).toEqual([])
    expect(check([arrival(), arrival({ key: 'other', invokedAt: 2, completedAt: 3, ...refused })])).toEqual([])
    expect(check([arrival(), arrival({ transactionId: 'u' })])).toEqual(['approved twice'])
    expect(check([arrival(), arrival({ invokedAt: 2, completedAt: 3, ...refused })])).toEqual(['not replayed'])
  })

  test('is not lost, and not done when it was refused', () => {
    expect(check([arrival()], [])).toEqual(['lost'])
    expect(check([arrival({ ...refused, code: 'shard_fenced' })])).toEqual(['aborted'])
  })

  test('leaves books that balance', () => {
    expect(check([arrival()], ['r'], 2)).toEqual(['invariant'])
  })
})

test('a canary is shown and written by its own tenant alone, at its home', () => {
  const empty = { sights: [], attempts: [], places: [] }
  const sight = (tenants: string[], mayBeEmpty = false) =>
    kinds(checkCanaries({ ...empty, sights: [{ by: 'a', tenants, where: 'n', mayBeEmpty }] }))
  expect(sight(['a'])).toEqual([])
  expect(sight([], true)).toEqual([])
  expect(sight([])).toEqual(['foreign row'])
  expect(sight(['a', 'b'])).toEqual(['foreign row'])
  const attempt = (answer: string) =>
    kinds(checkCanaries({ ...empty, attempts: [{ what: 'it', answer, refusals: ['no'] }] }))
  expect(attempt('no')).toEqual([])
  expect(attempt('lost')).toEqual([])
  expect(attempt('done')).toEqual(['not refused'])
  const place = (...shards: string[]) =>
    kinds(checkCanaries({ ...empty, places: [{ tenant: 'a', shards, home: 'h' }] }))
  expect(place('h')).toEqual([])
  expect(place('h', 'other')).toEqual(['misplaced'])
  expect(place()).toEqual(['misplaced'])
})

test('a closed timestamp shows all that lies below it; beyond a fork nothing is promised', () => {
  const check = (count: number, digest: string, position = '5') =>
    kinds(
      checkClosed({
        readings: [{ shard: 's', node: 'n', history: 'h', position, closed: '20', count, digest }],
        last: {
          s: [
            { timestamp: '9', digest: 'one' },
            { timestamp: '20', digest: 'two' },
            { timestamp: '100', digest: 'three' },
          ],
        },
        forks: { s: { h: '10' } },
      }),
    )
  expect(check(2, 'two')).toEqual([])
  expect(check(1, 'one')).toEqual(['closed too early'])
  expect(check(2, 'other')).toEqual(['closed too early'])
  expect(check(1, 'one', '11')).toEqual([])
})

const append = (key: string, value: number): MicroOperation => ({ kind: 'append', key, value })
const readOf = (key: string, ...values: number[]): MicroOperation => ({ kind: 'read', key, values })
const operations = (...plans: Partial<Operation>[]): Operation[] =>
  plans.map((plan, index) => ({
    index,
    client: index,
    invokedAt: 0,
    completedAt: 100,
    outcome: 'committed',
    micro: [],
    level: 'transaction',
    ...plan,
  }))

describe('timestamps', () => {
  test('of whoever saw and wrote lie above what it saw', () => {
    const seen = (timestamp: string, ...more: MicroOperation[]) =>
      kinds(
        checkTimestamps(
          operations({ micro: [append('x', 1)], timestamp: '5' }, { micro: [readOf('x', 1), ...more], timestamp }),
        ),
      )
    expect(seen('6', append('y', 1))).toEqual([])
    expect(seen('4', append('y', 1))).toEqual(['timestamp order'])
    // Who only read leaves nothing that could be out of order.
    expect(seen('4')).toEqual([])
  })

  test('follow the order of one list, and of one session', () => {
    const list = (...timestamps: string[]) => [
      ...timestamps.map((timestamp, at) => ({ micro: [append('x', at + 1)], timestamp })),
      { micro: [readOf('x', 1, 2)] },
    ]
    expect(kinds(checkTimestamps(operations(...list('1', '2'))))).toEqual([])
    expect(kinds(checkTimestamps(operations(...list('2', '1'))))).toEqual(['timestamp order'])
    const session = [{ timestamp: '2' }, { timestamp: '1' }].map((one) => ({ ...one, client: 0 }))
    expect(kinds(checkTimestamps(operations(...session)))).toEqual(['timestamp order'])
  })
})

describe('lists over shards', () => {
  const last = { micro: [readOf('left/x', 1), readOf('right/y', 1)] }
  const writer = { micro: [append('left/x', 1), append('right/y', 1)] }

  test('a snapshot that shows one half of a transaction is fractured; two reads of transactions are not one snapshot', () => {
    const half = [readOf('left/x', 1), readOf('right/y')]
    expect(kinds(checkListsOverShards(operations(writer, { micro: half, level: 'snapshot' }, last)))).toEqual([
      'fractured read',
    ])
    expect(kinds(checkListsOverShards(operations(writer, { micro: half }, last)))).toEqual([])
    const none = [readOf('left/x'), readOf('right/y')]
    expect(kinds(checkListsOverShards(operations(writer, { micro: none, level: 'snapshot' }, last)))).toEqual([])
  })

  const snapshot = (micro: readonly MicroOperation[], more: Partial<Operation> = {}) =>
    ({ micro, level: 'snapshot', ...more }) as const
  const found = (...parts: Partial<Operation>[]) => [...new Set(kinds(checkListsOverShards(operations(...parts))))]

  test.each<[string, Partial<Operation>[], string]>([
    [
      'what was aborted',
      [
        { outcome: 'aborted', micro: [append('left/x', 1)] },
        snapshot([readOf('left/x', 1)]),
        snapshot([readOf('left/x')]),
      ],
      'G1a',
    ],
    ['what nobody wrote', [snapshot([readOf('left/x', 7)]), snapshot([readOf('left/x')])], 'unwritten value'],
    [
      'the middle of a transaction',
      [
        { micro: [append('left/x', 1), append('left/x', 2)] },
        snapshot([readOf('left/x', 1)]),
        snapshot([readOf('left/x', 1, 2)]),
      ],
      'G1b',
    ],
    [
      'another order',
      [
        { micro: [append('left/x', 1)] },
        { micro: [append('left/x', 2)] },
        snapshot([readOf('left/x', 2, 1)]),
        snapshot([readOf('left/x', 1, 2)]),
      ],
      'incompatible order',
    ],
    [
      'less than its own client wrote',
      [
        { client: 1, micro: [append('right/x', 1)] },
        snapshot([readOf('right/x')], { client: 1 }),
        snapshot([readOf('right/x', 1)]),
      ],
      'G-single-session',
    ],
    [
      'less than its own client was shown',
      [
        { client: 1, micro: [append('right/x', 1)] },
        snapshot([readOf('right/x', 1)], { client: 2 }),
        snapshot([readOf('right/x')], { client: 2 }),
        snapshot([readOf('right/x', 1)]),
      ],
      'G-single-session',
    ],
  ])('a snapshot shows %s', (_, history, kind) => {
    expect(found(...history)).toContain(kind)
  })

  test('half of a transaction whose outcome is unknown is seen at the end', () => {
    const unknown = { outcome: 'unknown', micro: [append('left/x', 1), append('right/y', 1)] } as const
    expect(found(unknown, snapshot([readOf('left/x', 1), readOf('right/y')]))).toEqual(['fractured read'])
    expect(found(unknown, snapshot([readOf('left/x'), readOf('right/y')]))).toEqual([])
  })

  test('at home a transaction sees what was acknowledged before it began; elsewhere a branch may be settled later', () => {
    const stale = (key: string) =>
      found(
        { client: 1, invokedAt: 0, completedAt: 1, micro: [append(key, 1)] },
        { client: 2, invokedAt: 2, completedAt: 3, micro: [readOf(key), append('left/z', 1)] },
        snapshot([readOf(key, 1), readOf('left/z', 1)], { client: 9, invokedAt: 4, completedAt: 5 }),
      )
    expect(stale('left/x')).toEqual(['G-single-realtime'])
    expect(stale('right/x')).toEqual([])
  })

  test('what was acknowledged and is not in the last read is lost', () => {
    expect(
      kinds(checkListsOverShards(operations(writer, { micro: [readOf('left/x', 1), readOf('right/y')] }))),
    ).toEqual(['lost write'])
  })
})
