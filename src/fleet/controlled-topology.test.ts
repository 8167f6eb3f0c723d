import { expect, test } from 'vitest'
import { eventually } from '../../test/support/eventually.ts'
import { documentOf } from '../../test/support/frozen-supervisor.ts'
import { ManualClock } from '../../test/support/manual-clock.ts'
import { deferred } from '../base/deferred.ts'
import type { Topology } from '../directory/topology.ts'
import { ControlledTopology } from './controlled-topology.ts'

const told = (version: number) =>
  documentOf({ version, fleet: 'test', regions: new Map(), shards: new Map() } as Topology)

test('a supervisor that stands still is given up, and what it says afterwards is taken', async () => {
  const clock = new ManualClock()
  const late = deferred<unknown>()
  const answers = [Promise.resolve(told(1)), late.promise]
  const call = () => answers.shift() ?? Promise.reject(new Error('asked too often'))
  const topology = await ControlledTopology.open(call, undefined, clock)
  const refused = expect(topology.refresh()).rejects.toMatchObject({ code: 'fleet_not_running', retry: 'safe' })
  await clock.advance(1_000)
  await refused
  expect(topology.current().version).toBe(1)
  late.resolve(told(2))
  await eventually(() => topology.current().version === 2)
})
