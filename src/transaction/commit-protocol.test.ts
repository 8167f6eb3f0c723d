import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { HoldfastError } from '../base/errors.ts'
import type { ShardName } from '../directory/topology.ts'
import type { Hlc } from '../hlc/hlc.ts'
import { toHlc } from '../hlc/hlc.ts'
import type { CommitEffect, CommitEvent, CommitState, Transition } from './commit-protocol.ts'
import { beginCommit, eventOfDefect, step } from './commit-protocol.ts'

const p = 'us-east/treasury' as ShardName
const q = 'us-west/ledger' as ShardName
const at = (value: number): Hlc => toHlc(BigInt(value))
const failure = new HoldfastError('transaction_aborted', 'no')

const states: Record<CommitState['kind'], CommitState> = {
  preparing: { kind: 'preparing', waiting: [p], prepared: [q], homeBusy: false, after: at(5) },
  observing: { kind: 'observing', prepared: [p, q], after: at(7) },
  deciding: { kind: 'deciding', prepared: [p, q] },
  asking: { kind: 'asking', prepared: [p, q] },
  committed: { kind: 'committed', timestamp: at(9) },
  aborted: { kind: 'aborted', failure },
  ambiguous: { kind: 'ambiguous', failure },
}

const events: Record<CommitEvent['kind'], CommitEvent> = {
  'home ready': { kind: 'home ready' },
  'vote yes': { kind: 'vote yes', shard: p, timestamp: at(6) },
  'vote read': { kind: 'vote read', shard: p, timestamp: at(6) },
  'vote no': { kind: 'vote no', shard: p, failure },
  'vote lost': { kind: 'vote lost', shard: p, failure },
  'given up': { kind: 'given up', failure },
  observed: { kind: 'observed' },
  'observe refused': { kind: 'observe refused', failure },
  acknowledged: { kind: 'acknowledged', timestamp: at(8) },
  refused: { kind: 'refused', failure },
  unanswered: { kind: 'unanswered' },
  'told committed': { kind: 'told committed', timestamp: at(8) },
  'told aborted': { kind: 'told aborted', failure },
  'told nothing': { kind: 'told nothing', failure },
}

/** Every pair that is not here stays where it is and does nothing. */
const moves: Partial<Record<CommitState['kind'], Partial<Record<CommitEvent['kind'], string>>>> = {
  preparing: {
    'vote yes': 'observing: observe 6',
    'vote read': 'observing: observe 6',
    'vote no': `aborted: roll back home, roll back branch ${q}`,
    'vote lost': `aborted: roll back home, roll back branch ${q}, roll back branch ${p}`,
    'given up': `aborted: roll back home, roll back branch ${q}`,
  },
  observing: {
    observed: 'deciding: decide 7',
    'observe refused': `aborted: roll back home, roll back branch ${p}, roll back branch ${q}`,
  },
  deciding: {
    acknowledged: `committed: commit branch ${p} 8, commit branch ${q} 8`,
    refused: `aborted: roll back branch ${p}, roll back branch ${q}`,
    unanswered: 'asking: ask',
  },
  asking: {
    'told committed': `committed: commit branch ${p} 8, commit branch ${q} 8`,
    'told aborted': `aborted: roll back branch ${p}, roll back branch ${q}`,
    'told nothing': 'ambiguous: ',
  },
  aborted: {
    'vote yes': `aborted: roll back branch ${p}`,
    'vote lost': `aborted: roll back branch ${p}`,
  },
}

const show = (transition: Transition) => `${transition.state.kind}: ${transition.effects.map(showEffect).join(', ')}`

function showEffect(effect: CommitEffect): string {
  const shard = 'shard' in effect ? ` ${effect.shard}` : ''
  const number = 'after' in effect ? ` ${effect.after}` : 'timestamp' in effect ? ` ${effect.timestamp}` : ''
  return `${effect.kind}${shard}${number}`
}

describe('the coordinator', () => {
  for (const [stateKind, state] of Object.entries(states)) {
    for (const [eventKind, event] of Object.entries(events)) {
      const expected = moves[state.kind]?.[event.kind] ?? `${stateKind}: `
      it(`${stateKind}, ${eventKind} -> ${expected}`, () => {
        expect(show(step(state, event))).toBe(expected)
      })
    }
  }

  it('G3: takes a defect for a no before the decision, and for no answer after it', () => {
    const after = Object.values(states).map((state) => step(state, eventOfDefect(state, failure)).state.kind)
    expect(after).toEqual(['aborted', 'aborted', 'asking', 'ambiguous', 'committed', 'aborted', 'ambiguous'])
  })

  it('decides at once when there is one shard', () => {
    expect(show(beginCommit([], false))).toBe('deciding: decide 0')
    const busy = beginCommit([], true)
    expect(show(busy)).toBe('preparing: ')
    expect(show(step(busy.state, { kind: 'home ready' }))).toBe('deciding: decide 0')
  })

  it('observes the clocks of those that only read, and settles nothing there', () => {
    const voted = step(beginCommit([p], false).state, { kind: 'vote read', shard: p, timestamp: at(5) })
    expect(show(voted)).toBe('observing: observe 5')
    const decided = step(voted.state, { kind: 'observed' })
    expect(show(decided)).toBe('deciding: decide 5')
    expect(show(step(decided.state, { kind: 'acknowledged', timestamp: at(8) }))).toBe('committed: ')
  })

  it('waits for every vote and for home, and observes the greatest prepare timestamp', () => {
    let state = beginCommit([p, q], true).state
    state = step(state, { kind: 'vote yes', shard: q, timestamp: at(12) }).state
    state = step(state, { kind: 'vote yes', shard: q, timestamp: at(99) }).state
    state = step(state, { kind: 'home ready' }).state
    expect(show(step(state, { kind: 'vote yes', shard: p, timestamp: at(3) }))).toBe('observing: observe 12')
  })
})

describe('in whatever order events arrive', () => {
  const anyShard = fc.constantFrom(p, q)
  const anyEvent: fc.Arbitrary<CommitEvent> = fc.oneof(
    fc.record({
      kind: fc.constant('vote yes' as const),
      shard: anyShard,
      timestamp: fc.integer({ min: 1, max: 9 }).map(at),
    }),
    fc.record({
      kind: fc.constantFrom('vote no' as const, 'vote lost' as const),
      shard: anyShard,
      failure: fc.constant(failure),
    }),
    fc.constantFrom(...Object.values(events)),
  )
  const run = (first: Transition, history: readonly CommitEvent[]) => {
    const seen: { event: CommitEvent | undefined; after: Transition }[] = [{ event: undefined, after: first }]
    let { state } = first
    for (const event of history) {
      const after = step(state, event)
      seen.push({ event, after })
      state = after.state
    }
    return seen
  }
  const property = (check: (seen: ReturnType<typeof run>) => void) =>
    fc.assert(
      fc.property(fc.subarray([p, q]), fc.boolean(), fc.array(anyEvent, { maxLength: 25 }), (shards, busy, history) => {
        check(run(beginCommit(shards, busy), history))
      }),
      { numRuns: 2_000 },
    )

  it('G1: it decides at most once, after a yes of everyone', () => {
    property((seen) => {
      const decisions = seen.flatMap(({ after }) => after.effects.filter(({ kind }) => kind === 'decide'))
      expect(decisions.length).toBeLessThanOrEqual(1)
      const [first] = seen
      const index = seen.findIndex(({ after }) => after.effects.some(({ kind }) => kind === 'decide'))
      if (index <= 0 || first?.after.state.kind !== 'preparing') return
      const voted = seen
        .slice(0, index)
        .flatMap(({ event }) => (event?.kind === 'vote yes' || event?.kind === 'vote read' ? [event.shard] : []))
      for (const shard of first.after.state.waiting) expect(voted).toContain(shard)
    })
  })

  it('G2, G3: branches are never both committed and rolled back, and a final state stays', () => {
    property((seen) => {
      const effects = seen.flatMap(({ after }) => after.effects.map(({ kind }) => kind))
      expect(effects.includes('commit branch') && effects.includes('roll back branch')).toBe(false)
      const kinds = seen.map(({ after }) => after.state.kind)
      const final = kinds.findIndex((kind) => kind === 'committed' || kind === 'aborted' || kind === 'ambiguous')
      if (final !== -1) expect(new Set(kinds.slice(final)).size).toBe(1)
      if (effects.includes('roll back branch') || kinds.includes('aborted')) {
        const decided = seen.findIndex(({ after }) => after.effects.some(({ kind }) => kind === 'decide'))
        const aborted = kinds.indexOf('aborted')
        const reason = seen[aborted]?.event?.kind
        if (decided !== -1) expect(reason === 'refused' || reason === 'told aborted').toBe(true)
      }
    })
  })

  it('G4: whatever may have been prepared is rolled back after an abort', () => {
    property((seen) => {
      if (seen.at(-1)?.after.state.kind !== 'aborted') return
      const first = seen[0]?.after.state
      const participants = first?.kind === 'preparing' ? first.waiting : []
      const rolledBack = seen.flatMap(({ after }) =>
        after.effects.flatMap((effect) => (effect.kind === 'roll back branch' ? [effect.shard] : [])),
      )
      // Who only read was never asked to prepare.
      const readers = seen.flatMap(({ event }) => (event?.kind === 'vote read' ? [event.shard] : []))
      for (const { event } of seen) {
        const mayStand = event?.kind === 'vote yes' || event?.kind === 'vote lost'
        if (mayStand && participants.includes(event.shard) && !readers.includes(event.shard))
          expect(rolledBack).toContain(event.shard)
      }
    })
  })
})
