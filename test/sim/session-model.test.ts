import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { hlcZero } from '../../src/hlc/hlc.ts'
import { actionLimits, actionsMax, actionsMin, exploreSessions, kindsOfAction } from './session-explore.ts'
import type { Plant } from './session-plants.ts'
import { plants } from './session-plants.ts'
import type { Action } from './session-play.ts'
import { Play } from './session-play.ts'

const action: fc.Arbitrary<Action> = fc.record({
  do: fc.constantFrom(...kindsOfAction),
  a: fc.nat(actionLimits.a - 1),
  b: fc.nat(actionLimits.b - 1),
  c: fc.nat(actionLimits.c - 1),
})
const actions = fc.array(action, { minLength: actionsMin, maxLength: actionsMax, size: 'max' })

/** Not a bound that decides anything: the runs are counted, and this machine may be busy. */
const timeoutMs = 120_000

function play(list: readonly Action[], plant?: Plant): Play {
  const all = new Play(plant)
  for (const one of list) all.act(one)
  return all
}

describe('sessions over lagging, forking shards', () => {
  test(
    'S3, S11: a proven answer misses nothing that its level promises, and what is told as lost is lost',
    () => {
      const totals = { proven: 0, told: 0, honoured: 0, whole: 0, lean: 0 }
      fc.assert(
        fc.property(actions, (list) => {
          const { proven, told, honoured, whole, lean } = play(list)
          totals.proven += proven
          totals.told += told
          totals.honoured += honoured
          totals.whole += whole
          totals.lean += lean
        }),
        { numRuns: 1_500 },
      )
      // Enough of each that what is checked of it was.
      expect(totals.proven).toBeGreaterThan(3_000)
      expect(totals.told).toBeGreaterThan(150)
      expect(totals.honoured).toBeGreaterThan(150)
      expect(totals.whole).toBeGreaterThan(1_000)
      expect(totals.lean).toBeGreaterThan(1_000)
    },
    timeoutMs,
  )

  test(
    'S12: once everything has settled, replayed and closed, every session is answered or told',
    () => {
      fc.assert(
        fc.property(actions, (list) => {
          const all = play(list)
          for (const world of all.shards) {
            const latest = all.sessions.reduce(
              (t, { frontier }) => (frontier.timestamp > t ? frontier.timestamp : t),
              hlcZero,
            )
            world.quiesce(latest)
            for (const server of world.servers.filter((each) => each.log === world.log)) {
              for (const session of all.sessions) {
                const { kind } = all.read(session, world, server, 'causal', 0)
                expect(['proven', 'write_lost', 'history_rewritten', 'history_changed']).toContain(kind)
              }
            }
          }
        }),
        { numRuns: 700 },
      )
    },
    timeoutMs,
  )

  test(
    'S11: where no history was forked and every shard answers, nobody is told of a loss',
    () => {
      const unpeaceful = new Set(['promote', 'cutover', 'key in an outage'])
      const peaceful = actions.map((list) => list.filter(({ do: what }) => !unpeaceful.has(what)))
      fc.assert(
        fc.property(peaceful, (list) => {
          expect(play(list).told).toBe(0)
        }),
        { numRuns: 700 },
      )
    },
    timeoutMs,
  )
})

describe('the model finds what is planted', () => {
  test.each(plants)(
    '%s',
    (plant) => {
      const { failed } = exploreSessions({ seed: 1, schedules: 20_000 }, plant)
      expect(failed?.broken).toContain('missing')
    },
    timeoutMs,
  )
})

test('a seed gives the schedule that it gave before', () => {
  const plant = plants[0]
  const explored = () => exploreSessions({ seed: 1, schedules: 20_000 }, plant).failed
  const first = explored()
  expect(first?.actions.length).toBeLessThan(actionsMax)
  expect(explored()).toEqual(first)
})
