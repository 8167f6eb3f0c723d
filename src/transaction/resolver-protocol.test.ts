import { describe, expect, test } from 'vitest'
import { toHlc } from '../hlc/hlc.ts'
import type { Decision } from './decision-store.ts'
import type { ResolverEvent, ResolverState } from './resolver-protocol.ts'
import { beginResolving, stepResolver } from './resolver-protocol.ts'

const open: ResolverEvent = { kind: 'no record', homeIsOpen: true, couldBeCollected: false }
const ended: ResolverEvent = { kind: 'no record', homeIsOpen: false, couldBeCollected: false }
const collected: ResolverEvent = { kind: 'no record', homeIsOpen: false, couldBeCollected: true }
const committed: Decision = { outcome: 'COMMITTED', commitTimestamp: toHlc(7n) }
const aborted: Decision = { outcome: 'ABORTED' }

/** The effects that a list of events brings forth, and how it ended. */
function play(isOld: boolean, events: readonly ResolverEvent[]) {
  let { state, effect } = beginResolving(isOld)
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

  test('R1: without a record is left to a coordinator that is there, while it is young', () => {
    expect(play(false, [open])).toMatchObject({ resolution: { kind: 'left', failed: null } })
  })

  test.each([
    ['old, its coordinator there or not', true, open],
    ['young, and its coordinator is gone (R4)', false, ended],
  ])('R1: without a record and %s, is presumed aborted under the key', (_, isOld, event) => {
    expect(play(isOld, [event]).effects).toEqual(['read record', 'presume abort'])
  })

  test.each([true, false])('R3: without a record that could have been collected is for a person; old: %s', (isOld) => {
    const { effects, resolution } = play(isOld, [collected])
    expect(effects).toEqual(['read record', undefined])
    expect(resolution).toMatchObject({ kind: 'needs person' })
  })

  test('R1: without a record and old is presumed aborted, and what stands at home then decides', () => {
    const end: ResolverEvent[] = [{ kind: 'barrier passed' }, { kind: 'settled' }]
    const presumed = play(true, [open, { kind: 'record', decision: aborted }, ...end])
    expect(presumed.effects).toEqual(['read record', 'presume abort', 'pass barrier', 'settle', undefined])
    expect(presumed.resolution).toEqual({ kind: 'settled', outcome: 'ABORTED' })
    const late = play(true, [open, { kind: 'record', decision: committed }, ...end])
    expect(late.resolution).toEqual({ kind: 'settled', outcome: 'COMMITTED' })
  })
})

const states: readonly ResolverState[] = [
  { kind: 'reading', isOld: true },
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
      resolution: needsPerson
        ? { kind: 'needs person', why: 'no answer' }
        : { kind: 'left', why: 'no answer', failed: state.kind === 'settling' ? 'participant' : 'home' },
    })
  })

  test('R2: nothing but a barrier lets it settle', () => {
    const events: readonly ResolverEvent[] = [
      { kind: 'record', decision: aborted },
      open,
      ended,
      collected,
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
