import { describe, expect, test } from 'vitest'
import { toHlc } from '../hlc/hlc.ts'
import type { Decision } from './decision-store.ts'
import type { ResolverEvent, ResolverState } from './resolver-protocol.ts'
import { beginResolving, stepResolver } from './resolver-protocol.ts'

const committed: Decision = { outcome: 'COMMITTED', commitTimestamp: toHlc(7n) }
const aborted: Decision = { outcome: 'ABORTED' }

/** The effects that a list of events brings forth, and how it ended. */
function play(mayPresume: boolean, events: readonly ResolverEvent[]) {
  let { state, effect } = beginResolving(mayPresume)
  const effects = [effect?.kind]
  for (const event of events) {
    ;({ state, effect } = stepResolver(state, event))
    effects.push(effect?.kind)
  }
  return { effects, resolution: state.kind === 'done' ? state.resolution : undefined }
}

describe('a branch in doubt', () => {
  test('R1, R2: is settled by the record, behind a barrier', () => {
    const events: ResolverEvent[] = [
      { kind: 'record', decision: committed },
      { kind: 'barrier passed' },
      { kind: 'settled' },
    ]
    expect(play(false, events)).toEqual({
      effects: ['read record', 'pass barrier', 'settle', undefined],
      resolution: { kind: 'settled', outcome: 'COMMITTED' },
    })
  })

  test('R1: without a record is left to its coordinator while it is young', () => {
    expect(play(false, [{ kind: 'no record' }])).toMatchObject({ resolution: { kind: 'left' } })
  })

  test('R1: without a record and old is presumed aborted, and what stands at home then decides', () => {
    const end: ResolverEvent[] = [{ kind: 'barrier passed' }, { kind: 'settled' }]
    const presumed = play(true, [{ kind: 'no record' }, { kind: 'record', decision: aborted }, ...end])
    expect(presumed.effects).toEqual(['read record', 'presume abort', 'pass barrier', 'settle', undefined])
    expect(presumed.resolution).toEqual({ kind: 'settled', outcome: 'ABORTED' })
    const late = play(true, [{ kind: 'no record' }, { kind: 'record', decision: committed }, ...end])
    expect(late.resolution).toEqual({ kind: 'settled', outcome: 'COMMITTED' })
  })
})

const states: readonly ResolverState[] = [
  { kind: 'reading', mayPresume: true },
  { kind: 'presuming' },
  { kind: 'passing', decision: committed },
  { kind: 'settling', decision: committed },
]

describe.each(states)('while $kind', (state) => {
  test.each([true, false])('R3: a failure leaves the branch as it is; for a person: %s', (needsPerson) => {
    const { state: next, effect } = stepResolver(state, { kind: 'failed', why: 'no answer', needsPerson })
    expect(effect).toBeUndefined()
    expect(next).toEqual({
      kind: 'done',
      resolution: { kind: needsPerson ? 'needs person' : 'left', why: 'no answer' },
    })
  })

  test('R2: nothing but a barrier lets it settle', () => {
    const events: readonly ResolverEvent[] = [
      { kind: 'record', decision: aborted },
      { kind: 'no record' },
      { kind: 'barrier passed' },
      { kind: 'settled' },
    ]
    for (const event of events) {
      const { effect } = stepResolver(state, event)
      if (effect?.kind === 'settle') expect([state.kind, event.kind]).toEqual(['passing', 'barrier passed'])
    }
  })
})

test('what is done hears of nothing any more', () => {
  const state: ResolverState = { kind: 'done', resolution: { kind: 'settled', outcome: 'ABORTED' } }
  expect(stepResolver(state, { kind: 'record', decision: committed })).toEqual({ state, effect: undefined })
})
