import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { playCell } from '../crash/play.ts'
import { requestOf, sendRequest } from '../crash/request.ts'
import { Scene } from '../crash/scene.ts'
import { gatewayRegion, home } from '../crash/stand.ts'
import { actions, actors, runningCells } from '../crash/table.ts'

/** A diagonal of the table of steps, actors and actions; `npm run torture -- --workload steps` plays all of it. */
const names = [
  'gateway SIGSTOP at global record inserted',
  'gateway cut both ways at global prepare acknowledged',
  'gateway cut incoming at local commit sent',
  'gateway cut outgoing at global home commit sent',
  'gateway kill -9 at closer publish',
  'gateway SIGSTOP at resolver barrier',
  'primary of home kill -9 at global home waiting for follower',
  'primary of home cancel at global home waiting for follower',
  'primary of home fail over at global home waiting for follower',
  'primary of home terminate at local user write',
  'primary of participant cancel at global prepare sent',
  'primary of participant fail over at global reading sent',
  'primary of participant kill -9 at global reading confirmed',
  'primary of participant fail over at global reply',
  'primary of participant cut outgoing at global settle sent',
  'primary of participant terminate at global settle sent',
  'follower of home kill -9 at global record inserted',
  'follower of home SIGSTOP at local commit sent',
  'follower of participant cut both ways at global prepare sent',
  'follower of participant SIGSTOP at global reading sent',
  'follower of participant cut incoming at global settle sent',
]
const cells = runningCells().filter(({ name }) => names.includes(name))

let scene: Scene

beforeAll(async () => {
  scene = await Scene.open()
})

afterAll(() => scene?.close())

describe('one fleet, one cell after the other', () => {
  test.each(cells)('$name', async (cell) => {
    const { evidence, violations } = await playCell(scene, cell, cell.name)
    expect(violations).toEqual([])
    expect(evidence.faultSeen).toBe(true)
  })
})

test('a node that is down is not taken for a link that is cut', async () => {
  const node = scene.nodeOf('follower of home')
  const { followerRegion } = home
  expect(await scene.isSilent(followerRegion, [gatewayRegion])).toBe(false)
  expect(await scene.killNode(node)).toBe(true)
  expect(await scene.isSilent(followerRegion, [gatewayRegion])).toBe(false)
  await scene.heal()
  expect(await scene.cut(followerRegion, 'both', gatewayRegion)).toBe(true)
  await scene.heal()
})

test('a caller that hangs up while its commit waits gets the first outcome with its key', async () => {
  const gateway = await scene.gateway()
  const request = requestOf('global', 'hung up')
  await gateway.pauseAt('global home commit sent', null)
  const caller = new AbortController()
  const answer = sendRequest(gateway, request, caller.signal)
  await expect.poll(() => gateway.reached()?.step).toBe('global home commit sent')
  const first = gateway.reached()?.where.transactionId
  caller.abort()
  expect((await answer).kind).toBe('nothing')
  const again = sendRequest(gateway, request)
  gateway.goOn()
  expect(await again).toMatchObject({ kind: 'committed', transactionId: first, replayed: true })
})

test('each actor and each action has its turn, twice at least', () => {
  expect(cells.map(({ name }) => name).toSorted()).toEqual(names.toSorted())
  for (const actor of actors) expect(cells.filter((one) => one.actor === actor).length, actor).toBeGreaterThan(1)
  for (const action of actions) expect(cells.filter((one) => one.action === action).length, action).toBeGreaterThan(1)
})
