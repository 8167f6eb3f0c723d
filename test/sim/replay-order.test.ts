import { describe, expect, test } from 'vitest'
import type { Redone, ReplayHistory, RowChanged } from './replay-order.ts'
import { checkReplay } from './replay-order.ts'

const opened: RowChanged = { place: 'a', before: null, after: '10' }
const change = (before: string | null, after: string | null, place = 'a'): RowChanged => ({ place, before, after })

/** Commits by the order of their positions: the first has position 1 and timestamp 1. */
const stream = (...changes: (readonly RowChanged[])[]): Redone[] =>
  changes.map((all, at) => ({ name: `t${at + 1}`, position: String(at + 1), timestamp: String(at + 1), changes: all }))

const kinds = (redone: readonly Redone[], last: ReplayHistory['last'], isWhole = true) =>
  checkReplay({ shard: 's', isWhole, redone, last }).map(({ kind }) => kind)

const honest = stream([opened], [change('10', '7')], [change('7', '9'), change(null, '1', 'b')], [change('9', '4')])
const there = { a: '4', b: '1' }

describe('a replay in the order of the redo stream', () => {
  test('comes to the rows that are there', () => {
    expect(kinds(honest, there)).toEqual([])
    expect(kinds([], {})).toEqual([])
    expect(kinds(honest, { ...there, a: '5' })).toEqual(['replay'])
    expect(kinds(honest, { a: '4' })).toEqual(['replay'])
    expect(kinds(honest, { ...there, c: '1' })).toEqual(['replay'])
    expect(kinds([...honest, ...stream([], [], [], [], [change('4', null)]).slice(4)], { b: '1' })).toEqual([])
  })

  test('finds each row as the one before it has left it: none is missing, none there twice', () => {
    expect(kinds(honest.toSpliced(1, 1), there)).toEqual(['replay'])
    expect(kinds(honest.toSpliced(-1, 1), there)).toEqual(['replay'])
    expect(kinds([...honest, ...honest.slice(-1)], there)).toEqual(['replayed twice', 'replay'])
  })

  test('is of commits in the order of their positions, whatever they changed', () => {
    const apart = stream([change(null, '1', 'a')], [change(null, '1', 'b')])
    expect(kinds(apart, { a: '1', b: '1' })).toEqual([])
    expect(kinds(apart.toReversed(), { a: '1', b: '1' })).toEqual(['replay order'])
  })

  test('sees who was put before the one he waited for, also where positions say nothing', () => {
    const swapped = honest.toSpliced(1, 2, ...honest.slice(1, 3).toReversed())
    const renumbered = swapped.map((one, at) => ({ ...one, position: String(at + 1), timestamp: null }))
    expect(kinds(renumbered, there)).toEqual(['replay', 'replay', 'replay'])
  })

  test('has timestamps that rise on each row; on different ones they need not', () => {
    const stamped = (timestamp: string | null, place = 'a') => [
      ...stream([opened]),
      { name: 't2', position: '2', timestamp, changes: [change(place === 'a' ? '10' : null, '7', place)] },
    ]
    expect(kinds(stamped('2'), { a: '7' })).toEqual([])
    expect(kinds(stamped('1'), { a: '7' })).toEqual(['replay timestamp'])
    expect(kinds(stamped('0'), { a: '7' })).toEqual(['replay timestamp'])
    expect(kinds(stamped(null), { a: '7' })).toEqual([])
    expect(kinds(stamped('0', 'b'), { a: '10', b: '7' })).toEqual([])
  })

  test('behind a stated hole is judged by what the stream shows from there on', () => {
    const rest = honest.slice(2)
    expect(kinds(rest, { ...there, c: '3' }, false)).toEqual([])
    expect(kinds(rest, { ...there, c: '3' }, true)).toEqual(['replay'])
    expect(kinds(rest.toReversed(), there, false)).toContain('replay')
  })
})
