import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { MicroOperation, Operation } from './history.ts'
import { checkListAppend, forbiddenUnder } from './list-append.ts'

const append = (key: string, value: number): MicroOperation => ({ kind: 'append', key, value })
const read = (key: string, ...values: number[]): MicroOperation => ({ kind: 'read', key, values })

interface Plan extends Partial<Omit<Operation, 'micro'>> {
  readonly micro: readonly MicroOperation[]
}

/** Operations of clients of their own, all at once; a plan says what differs. */
function historyOf(...plans: readonly (Plan | readonly MicroOperation[])[]): Operation[] {
  return plans.map((plan, index) => ({
    index,
    client: index,
    invokedAt: 0,
    completedAt: 100,
    outcome: 'committed',
    ...('micro' in plan ? plan : { micro: plan }),
  }))
}

const kinds = (history: readonly Operation[]) =>
  [...new Set(checkListAppend(history).map(({ kind }) => kind))].toSorted()

describe('the smallest history of each anomaly is named by it', () => {
  const smallest: readonly (readonly [string, Operation[]])[] = [
    ['G1a', historyOf({ micro: [append('x', 1)], outcome: 'aborted' }, [read('x', 1)])],
    ['G1b', historyOf([append('x', 1), append('x', 2)], [read('x', 1)], [read('x', 1, 2)])],
    [
      'G0',
      historyOf([append('x', 1), append('y', 1)], [append('x', 2), append('y', 2)], [read('x', 1, 2), read('y', 2, 1)]),
    ],
    ['G1c', historyOf([append('x', 1), read('y', 1)], [append('y', 1), read('x', 1)])],
    ['G-single', historyOf([append('x', 1), append('y', 1)], [read('x'), read('y', 1)], [read('x', 1)])],
    ['G2-item', historyOf([read('x'), append('y', 1)], [read('y'), append('x', 1)], [read('x', 1), read('y', 1)])],
    [
      'G-nonadjacent',
      historyOf([append('x', 1)], [append('y', 1)], [read('x', 1), read('y')], [read('y', 1), read('x')]),
    ],
    ['internal', historyOf([append('x', 1), read('x')])],
    ['duplicate append', historyOf([append('x', 1)], [read('x', 1, 1)])],
    ['incompatible order', historyOf([append('x', 1)], [append('x', 2)], [read('x', 1, 2)], [read('x', 2)])],
    ['unwritten value', historyOf([read('x', 7)])],
    [
      'G-single-session',
      historyOf(
        { micro: [append('x', 1)], client: 9, completedAt: 1 },
        { micro: [read('x')], client: 9, invokedAt: 2 },
        [read('x', 1)],
      ),
    ],
    [
      'G-single-realtime',
      historyOf({ micro: [append('x', 1)], completedAt: 1 }, { micro: [read('x')], invokedAt: 2 }, [read('x', 1)]),
    ],
  ]

  test.each(smallest)('%s', (kind, history) => {
    expect(kinds(history)).toContain(kind)
  })

  test.each(smallest.filter(([kind]) => kind.startsWith('G') && !/^G1[ab]/.test(kind)))(
    '%s is nothing else',
    (kind, history) => {
      expect(kinds(history)).toEqual([kind])
    },
  )
})

test('a write of its own session that a client does not see is named, also where write skew names the same two', () => {
  const history = historyOf(
    { micro: [read('x'), append('y', 1)], client: 0, completedAt: 1 },
    { micro: [read('y'), append('x', 1)], client: 0, invokedAt: 2 },
    [read('x', 1), read('y', 1)],
  )
  expect(kinds(history).filter(forbiddenUnder('repeatable read'))).toContain('G-single-session')
})

test('a long fork is named, also where shorter write skews go through the same edges', () => {
  const history = historyOf(
    [append('x', 1), read('u')],
    [append('y', 1), read('z')],
    [read('x', 1), read('y'), append('z', 1)],
    [read('y', 1), read('x'), append('u', 1)],
    [read('z', 1), read('u', 1)],
  )
  expect(kinds(history)).toContain('G-nonadjacent')
})

test('what nobody knows the outcome of may have been written', () => {
  const history = historyOf({ micro: [append('x', 1)], outcome: 'unknown', completedAt: Number.POSITIVE_INFINITY }, [
    read('x', 1),
  ])
  expect(checkListAppend(history)).toEqual([])
})

test('a level forbids what PostgreSQL promises there, and no more', () => {
  expect(forbiddenUnder('read committed')('G-single')).toBe(false)
  expect(forbiddenUnder('repeatable read')('G-single-session')).toBe(true)
  expect(forbiddenUnder('repeatable read')('G-nonadjacent')).toBe(true)
  expect(forbiddenUnder('repeatable read')('G2-item')).toBe(false)
  expect(forbiddenUnder('serializable')('G2-item')).toBe(true)
})

/** A serial execution: one transaction after the other, by a few clients, over a few keys. */
const serial = fc
  .array(
    fc.record({
      client: fc.nat(3),
      wishes: fc.array(fc.record({ key: fc.constantFrom('x', 'y', 'z'), isRead: fc.boolean() }), {
        minLength: 1,
        maxLength: 4,
      }),
    }),
    { minLength: 12, maxLength: 40 },
  )
  .map((plans) => {
    const lists = new Map<string, number[]>()
    let value = 0
    const played = plans.map(({ client, wishes }, index): Operation => {
      const micro = wishes.map(({ key, isRead }): MicroOperation => {
        const list = lists.get(key) ?? []
        lists.set(key, list)
        if (isRead) return read(key, ...list)
        value += 1
        list.push(value)
        return append(key, value)
      })
      return { index, client, invokedAt: index * 10, completedAt: index * 10 + 9, outcome: 'committed', micro }
    })
    const last: Operation = {
      index: played.length,
      client: 99,
      invokedAt: played.length * 10,
      completedAt: played.length * 10 + 9,
      outcome: 'committed',
      micro: [...lists].map(([key, values]) => read(key, ...values)),
    }
    return [...played, last]
  })

test('a serial execution has no anomaly', () => {
  fc.assert(
    fc.property(serial, (history) => {
      expect(checkListAppend(history)).toEqual([])
    }),
    { numRuns: 300 },
  )
})

describe('a corruption of a serial execution is seen', () => {
  const isWrite = ({ micro }: Operation) => micro.some(({ kind }) => kind === 'append')

  test('an acknowledged append that the last read lacks', () => {
    fc.assert(
      fc.property(serial, fc.nat(), (history, pick) => {
        const last = history.length - 1
        const lists = (history[last]?.micro ?? []).filter((one) => one.kind === 'read' && one.values.length > 0)
        fc.pre(lists.length > 0)
        const lost = lists[pick % lists.length]
        const micro =
          history[last]?.micro.map((one) =>
            one === lost && one.kind === 'read' ? { ...one, values: one.values.slice(0, -1) } : one,
          ) ?? []
        const corrupted = history.with(last, { ...history[last], micro } as Operation)
        // With no other read of it nobody can tell an append that was lost from one that was never seen: sets do.
        fc.pre(
          corrupted
            .slice(0, -1)
            .some(({ micro: seen }) =>
              seen.some(
                (one) =>
                  one.kind === 'read' &&
                  one.key === lost?.key &&
                  lost.kind === 'read' &&
                  one.values.length === lost.values.length,
              ),
            ),
        )
        expect(checkListAppend(corrupted)).not.toEqual([])
      }),
      { numRuns: 100 },
    )
  })

  test('a transaction that was aborted and is seen', () => {
    fc.assert(
      fc.property(serial, fc.nat(), (history, pick) => {
        const writers = history.filter(isWrite)
        fc.pre(writers.length > 0)
        const writer = writers[pick % writers.length]
        fc.pre(writer !== undefined)
        const corrupted = history.with(writer.index, { ...writer, outcome: 'aborted' })
        expect(kinds(corrupted)).toContain('G1a')
      }),
      { numRuns: 100 },
    )
  })

  test('two elements that changed places', () => {
    fc.assert(
      fc.property(serial, (history) => {
        const last = history.length - 1
        const list = history[last]?.micro.find((one) => one.kind === 'read' && one.values.length > 1)
        fc.pre(list?.kind === 'read')
        const [first, second, ...rest] = list.values
        const swapped = { ...list, values: [second, first, ...rest] } as MicroOperation
        const micro = history[last]?.micro.map((one) => (one === list ? swapped : one)) ?? []
        expect(checkListAppend(history.with(last, { ...history[last], micro } as Operation))).not.toEqual([])
      }),
      { numRuns: 100 },
    )
  })
})
