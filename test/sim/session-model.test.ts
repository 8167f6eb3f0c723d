import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { hlcZero } from '../../src/hlc/hlc.ts'
import type { Action, Plant } from './session-play.ts'
import { Play, plants } from './session-play.ts'

const often = ['write', 'write', 'global', 'global', 'background', 'background', 'settle', 'release', 'close', 'close']
const reading = [
  'receive',
  'receive',
  'receive',
  'replay',
  'replay',
  'replay',
  'read',
  'read',
  'read',
  'causal',
  'causal',
]
const seldom = ['join', 'join', 'copy', 'promote', 'cutover']
const action: fc.Arbitrary<Action> = fc.record({
  do: fc.constantFrom(...often, ...reading, ...reading, ...seldom),
  a: fc.nat(7),
  b: fc.nat(5),
  c: fc.nat(11),
})
const actions = fc.array(action, { minLength: 10, maxLength: 90, size: 'max' })

/** Not a bound that decides anything: the runs are counted, and this machine may be busy. */
const timeoutMs = 120_000

function play(list: readonly Action[], plant?: Plant): Play {
  const all = new Play(plant)
  for (const one of list) all.act(one)
  return all
}

describe('sessions over lagging, forking shards', () => {
  test(
    'S3, S11: a proven answer misses nothing that the session has seen, and what is told as lost is lost',
    () => {
      const totals = { proven: 0, told: 0 }
      fc.assert(
        fc.property(actions, (list) => {
          const { proven, told } = play(list)
          totals.proven += proven
          totals.told += told
        }),
        { numRuns: 1_500 },
      )
      expect(totals.proven).toBeGreaterThan(3_000)
      expect(totals.told).toBeGreaterThan(300)
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
    'S11: where no history was forked, nobody is told of a loss',
    () => {
      const peaceful = actions.map((list) => list.filter(({ do: what }) => what !== 'promote' && what !== 'cutover'))
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
      const outcome = fc.check(
        fc.property(actions, (list) => void play(list, plant)),
        { numRuns: 20_000, endOnFailure: true },
      )
      expect(outcome.errorInstance).toMatchObject({ message: expect.stringContaining('missing') })
    },
    timeoutMs,
  )
})
