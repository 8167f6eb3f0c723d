import { describe, expect, test } from 'vitest'
import { ManualClock } from '../../test/support/manual-clock.ts'
import { branch, demand, frontierOn, payroll } from '../../test/support/session-values.ts'
import type { Jurisdiction, RegionName, Topology } from '../directory/topology.ts'
import { readLimitsDefault } from './environment.ts'
import type { Waiting } from './wait-budget.ts'
import { requireWait, WaitBudget, waitMsMax, waitMsOf } from './wait-budget.ts'

const regions = new Map([
  ['eu-west', 'EU'],
  ['eu-central', 'EU'],
  ['us-east', 'US'],
] as [RegionName, Jurisdiction][])
const topology: Topology = { version: 1, fleet: 'test', regions, shards: new Map() }
const far = {
  limits: readLimitsDefault,
  topology: { current: () => topology, refresh: () => Promise.resolve(topology) },
  distanceMs: (from: RegionName, to: RegionName) =>
    from === to ? 0 : [from, to].includes('us-east' as RegionName) ? 90 : 12,
}
const near = { ...far, distanceMs: () => 0 }

const pending = frontierOn(payroll, [demand(1, 10, { pending: [branch(1, 10)] })])
const forgotten = frontierOn(payroll, [demand(1, 10, { pendingForgotten: true })])

test.each([
  ['of its own', {}, 50, 50],
  ['causal', { level: 'causal' }, 180, 50],
  ['behind a branch that may be unsettled', { frontier: pending }, 450, 50],
  ['behind branches without names', { frontier: forgotten }, 450, 50],
  ['behind both', { level: 'causal', frontier: pending }, 450, 50],
  ['behind what everybody decided', { level: 'strong' }, 2_000, 2_000],
  ['that says how long', { waitMs: 0, level: 'causal', frontier: pending }, 0, 0],
] as [string, Waiting, number, number][])('a read %s', (_, waiting, farMs, nearMs) => {
  expect([waitMsOf(far, waiting), waitMsOf(near, waiting)]).toEqual([farMs, nearMs])
})

describe('a budget', () => {
  const clock = new ManualClock()

  test('is spent once by shards that wait at the same time', async () => {
    const budget = new WaitBudget(50, clock)
    const ends = [budget.begin(), budget.begin()]
    await clock.advance(30)
    expect(ends.map((end) => end())).toEqual([30, 30])
    expect(budget.leftMs).toBe(20)
  })

  test('is spent by one that goes on waiting', async () => {
    const budget = new WaitBudget(50, clock)
    const first = budget.begin()
    await clock.advance(49)
    const second = budget.begin()
    expect(budget.leftMs).toBe(1)
    await clock.advance(10)
    expect([first(), second(), budget.leftMs]).toEqual([59, 10, 0])
  })

  test('is not spent by what lies between two waits', async () => {
    const budget = new WaitBudget(50, clock)
    const first = budget.begin()
    await clock.advance(20)
    first()
    await clock.advance(1_000)
    // Stood in a queue for the first ten of them.
    budget.spend(10, clock.monotonicMs() - 1_000)
    budget.spend(5, clock.monotonicMs() - 1_005)
    expect(budget.leftMs).toBe(20)
  })

  test('an end that is told twice counts once', async () => {
    const budget = new WaitBudget(50, clock)
    const end = budget.begin()
    await clock.advance(10)
    end()
    await clock.advance(10)
    end()
    expect(budget.leftMs).toBe(40)
  })
})

test.each([Number.NaN, Number.POSITIVE_INFINITY, Number.MAX_SAFE_INTEGER, waitMsMax + 1, -1, '50', null])(
  'a read does not wait for %j ms',
  (waitMs) => {
    expect(() => requireWait({ waitMs: waitMs as number })).toThrow(
      expect.objectContaining({ code: 'argument_invalid' }),
    )
  },
)

test.each([undefined, 0, 0.5, waitMsMax])('a read may wait for %j ms', (waitMs) => {
  requireWait({ waitMs })
})
