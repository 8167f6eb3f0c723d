import { expect, test } from 'vitest'
import type { Lsn } from '../postgres/lsn.ts'
import type { Sight, Stall } from './following.ts'
import { judgeFollowing, stalledForMs } from './following.ts'

const at = (position: bigint, isExhausted = true) => ({ position: position as Lsn, isExhausted })
const stalled: Sight = { isStreaming: false, isSlotLost: false, replay: at(7n), isLinked: true }

/** What becomes of looks that are half the bound apart, the last of them at it. */
function kindsOf(...sights: Partial<Sight>[]): string[] {
  let stall: Stall | undefined
  return sights.map((sight, index) => {
    const following = judgeFollowing({ ...stalled, ...sight }, stall, (index * stalledForMs) / 2)
    stall = following.kind === 'stalled' ? following.stall : undefined
    return following.kind
  })
}

test('V9: one that asks a primary which answers, and gets nothing for as long as the bound, is lost', () => {
  expect(kindsOf({}, {}, {})).toEqual(['stalled', 'stalled', 'lost'])
})

test('V9: one whose slot was invalidated is lost at once, also when nobody answers for it', () => {
  expect(kindsOf({ isSlotLost: true, replay: null, isLinked: false })).toEqual(['lost'])
})

test.each<[string, Partial<Sight>[]]>([
  ['streams', [{}, { isStreaming: true }, {}, {}]],
  ['replays what it has, however slowly', [{}, { replay: at(8n) }, { replay: at(9n) }, { replay: at(10n) }]],
  ['is busy with one record', [{ replay: at(7n, false) }, { replay: at(7n, false) }, { replay: at(7n, false) }]],
  ['is held where it stalled', [{}, { replay: at(7n, false) }, { replay: at(7n, false) }]],
  ['does not answer', [{}, { replay: null }, {}, {}]],
  ['does not reach its primary', [{}, { isLinked: false }, {}, {}]],
])('V9: one that %s is not', (_, sights) => {
  expect(kindsOf(...sights)).not.toContain('lost')
})

test('an attempt that is under way at one look does not begin the wait anew', () => {
  expect(kindsOf({}, { replay: at(7n, false) }, {})).toEqual(['stalled', 'stalled', 'lost'])
})
